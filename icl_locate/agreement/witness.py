"""What each method says of the layer, and how far two of them are apart."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.agreement.curve import Kind, MethodCurve
from icl_locate.agreement.kinds import Found, Strength
from icl_locate.checks.reprs import short_repr
from icl_locate.masking.comparison import distance
from icl_locate.masking.location import FEW
from icl_locate.studies.intervals import Paired

PLAIN = ("recognised", "peak", "damage ends", "gain ends", "reached")
"""Verdicts that a layer with its interval says by itself."""
UNRESOLVED = "not resolved"


@short_repr("method", "verdict", "layer", "interval", "effect", "metric", "seconds", "n_prompts")
@dataclass(frozen=True)
class Witness:
    """What one method says.

    Attributes:
        method, kind, question, cannot_show, places: as in `MethodCurve`.
        layer: on the common axis (`triangulate`); ``None`` if the method finds none.
        interval: its confidence interval, both ends included; ``None`` without a layer, or of a
            single item.
        verdict: of a plateau as in `Location`; of a peak as in `vectors.Peak`; of a drop "damage
            ends" or "gain ends", "no damage" or "no gain" where no layer does anything beyond
            noise, "gain never ends" where the last layer does as well; of a rise "reached" or "no
            rise". "not resolved": the interval spans over half of the layers.
        effect: how much there is to locate, with its interval (low, high), in units of the metric:
            of a plateau ceiling minus floor, else what the layer that does most adds to its
            reference, or takes from it. NaN where a single item gives no interval.
        metric: the name of the metric.
        seconds, n_prompts: what it cost: time, and prompts that the model answered.
        layers, scores: the curve, mean over seeds; layers on the common axis.
        score_interval: its pointwise confidence interval; row 0 low, row 1 high.
        reference: the score that the curve is held against.
        lowers: whether the curve lies below its reference where a layer matters.
        n_items, n_seeds: what the curve was measured on.
        notes: what a reader must know beside it.
    """

    method: str
    kind: Kind
    question: str
    cannot_show: str
    places: str
    layer: int | None
    interval: tuple[int, int] | None
    verdict: str
    effect: Strength
    metric: str
    seconds: float
    n_prompts: int
    layers: tuple[int, ...]
    scores: Float[Tensor, "layer"]
    score_interval: Float[Tensor, "bound layer"]
    reference: float
    lowers: bool
    n_items: int
    n_seeds: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, curve: MethodCurve, found: Found, confidence: float) -> "Witness":
        """From a curve, and what was found in it."""
        names = "method", "kind", "question", "cannot_show", "places", "metric", "seconds"
        more = "n_prompts", "layers", "lowers"
        return cls(
            **{name: getattr(curve, name) for name in (*names, *more)},
            layer=found.layer,
            interval=found.interval,
            verdict=found.verdict,
            effect=found.effect,
            scores=torch.from_numpy(curve.scores.mean),
            score_interval=torch.from_numpy(curve.scores.interval(confidence)),
            reference=float(curve.cells.mean[-1]),
            n_items=len(curve.items),
            n_seeds=len(curve.seeds),
            notes=(*curve.notes, *found.notes, *_few(len(curve.items))),
        )

    @property
    def label(self) -> str:
        """The finding in a few words."""
        if self.layer is None:
            return self.verdict
        low_high = "" if self.interval is None else f" [{self.interval[0]}, {self.interval[1]}]"
        said = "" if self.verdict in PLAIN else f", {self.verdict}"
        return f"layer {self.layer}{low_high}{said}"

    @property
    def worth(self) -> str:
        """The effect with its interval as text."""
        most = max(map(abs, filter(np.isfinite, self.effect)), default=0.0)
        size = int(np.floor(np.log10(most))) if most else 0
        digits = max(1, 2 - size) if size >= 0 else 1 - size
        effect, low, high = (f"{value:.{digits}f}" for value in self.effect)
        return effect if np.isnan(self.effect[1]) else f"{effect} [{low}, {high}]"

    def __str__(self) -> str:
        return f"{self.method}: {self.label}"


def _few(n_items: int) -> tuple[str, ...]:
    """What so few queries leave open."""
    if n_items == 1:
        return ("a single query tells nothing of noise: there is no interval",)
    if n_items < FEW:
        return (f"{n_items} queries are too few for an interval to be relied on",)
    return ()


@short_repr("methods", "verdict", "layer", "interval", "paired")
@dataclass(frozen=True)
class MethodDifference:
    """How far two methods are apart.

    Attributes:
        methods: their names; the difference is the first's layer minus the second's.
        layer: how many layers later the first one's is; ``None`` if one of them has none.
        interval: its confidence interval, both ends included, of draws that are as paired as the
            two were measured; ``None`` without a layer, or of a single item.
        paired: what the two share: "items and seeds", "items" or "nothing".
    """

    methods: tuple[str, str]
    layer: int | None
    interval: tuple[int, int] | None
    paired: Paired

    @classmethod
    def of(
        cls, curves: tuple[MethodCurve, MethodCurve], found: tuple[Found, Found], confidence: float
    ) -> "MethodDifference":
        """Of two methods' curves, and what was found in them."""
        (a, b), (one, other) = curves, found
        layer = interval = None
        if one.layer is not None and other.layer is not None:
            layer = one.layer - other.layer
        if one.draws is not None and other.draws is not None:
            _, interval = distance(one.draws, other.draws, confidence)
        if layer is not None and interval is not None:  # of ties the draws know no single layer
            interval = min(interval[0], layer), max(interval[1], layer)
        same_items = a.items == b.items
        same_seeds = (a.seeds, a.draws) == (b.seeds, b.draws)
        paired: Paired = "nothing"
        if same_items:
            paired = "items and seeds" if same_seeds else "items"
        return cls((a.method, b.method), layer, interval, paired)

    @property
    def verdict(self) -> Literal["later", "earlier", "no difference shown", "not comparable"]:
        """Whether the first one's layer is later than the second's, beyond noise."""
        if self.interval is None:
            return "not comparable"
        low, high = self.interval
        return "later" if low > 0 else "earlier" if high < 0 else "no difference shown"

    def __str__(self) -> str:
        first, second = self.methods
        if self.layer is None or self.interval is None:
            return f"{first} against {second}: {self.verdict}"
        low, high = self.interval
        if self.verdict == "no difference shown":
            return f"{first} against {second}: {self.verdict}, {self.layer} [{low}, {high}]"
        sign = 1 if low > 0 else -1
        low, high = sorted((sign * low, sign * high))
        unit = "layer" if abs(self.layer) == 1 else "layers"
        return f"{first} is {sign * self.layer} {unit} {self.verdict} [{low}, {high}] than {second}"
