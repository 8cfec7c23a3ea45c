"""Locate the layer at which a task is recognised, with its interval and a verdict.

``R(l) = (S(l) - floor) / (ceiling - floor)`` is what is recovered of the context's worth when the
context is hidden from layer ``l`` on. The task is recognised at the first layer from which ``R``
stays at the threshold or above for good: a first crossing would not do, since real curves dip.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from icl_locate.checks.arguments import refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked, number
from icl_locate.errors import ResultError
from icl_locate.masking.curve import Curve, Verdict
from icl_locate.masking.result import SweepResult

_TIE = 1e-9  # a recovery at the threshold counts, rounding aside
FEW = 8
"""Items, below which an interval is not to be relied on."""
_UNITS = {"log_prob": "nats"}
"""Of scores, where the metric's name is none."""


@short_repr("condition", "verdict", "layer", "interval", "floor", "ceiling", "effect", "scores")
@dataclass(frozen=True)
class Location:
    """Where one condition's curve recovers.

    Attributes:
        condition: the condition.
        layers: the start layers of the curves below.
        verdict: "recognised": by ``layer`` the context is no longer needed; "never recovered": it
            is needed to the end, and ``layer`` is the last; "no effect": hiding it changes nothing
            beyond noise; "context harms": the score is higher without it; "not resolved": the
            interval spans over half of the layers, or a single item gives none.
        layer: the recognition layer; ``None`` if there is no effect to recover from. If not all
            start layers ran, the lowest of those that did.
        after: the start layer that ran before it, at which the context is still needed: the task is
            recognised above it, by ``layer`` at the latest; ``None`` if there is no such layer.
        interval: its confidence interval, both ends included, over all layers at which the task may
            be recognised; ``None`` if there is no layer, or a single item. It takes the curve to
            rise to a plateau but for dips that noise does not explain.
        upper_any: the interval's upper end with no shape assumed: from here on every layer is above
            the threshold beyond noise; ``None`` where ``interval`` is.
        ceiling, floor: the mean scores over seeds with nothing hidden, and all hidden.
        effect: ceiling minus floor with its confidence interval (low, high); NaN for a single item.
        lowest: the start layer with the lowest score if that lies below the floor beyond noise,
            else 0.
        base: the start layer that recovery is measured from: 0, or ``lowest`` where the floor lies
            nearer to the ceiling than to it.
        level: the plateau's mean score, which recovery is measured to: steadier than the ceiling.
        dips: start layers at which the score falls, beyond noise, below an earlier one's and below
            the threshold.
        jump_layer: the layer with the largest rise of ``S`` from the start layer that ran before
            it; ``None`` if there is no effect.
        jump: that rise.
        scores: the curve ``S``, mean over seeds.
        score_interval: its pointwise confidence interval; row 0 low, row 1 high.
        recovery: the curve ``R``, from the score at ``base`` to the level, so above 1 where a score
            lies above the level; NaN if the context has no effect.
        threshold: the recovery that counted as recovered.
        confidence: of all intervals, such as 0.95.
        n_items, n_seeds: what the curve was measured on.
        enough_items, enough_seeds: about how many items and seeds in all would resolve the layer
            where the verdict is "not resolved": as many seeds as were measured if more items alone
            would do. ``None`` if the verdict is another, or if no numbers that were tried would.
        n_resamples: curves that were drawn.
        metric: the metric's name.
    """

    condition: str
    layers: tuple[int, ...]
    verdict: Verdict
    layer: int | None
    after: int | None
    interval: tuple[int, int] | None
    upper_any: int | None
    ceiling: float
    floor: float
    effect: tuple[float, float, float]
    lowest: int
    base: int
    level: float
    dips: tuple[int, ...]
    jump_layer: int | None
    jump: float
    scores: Float[Tensor, "layer"]
    score_interval: Float[Tensor, "bound layer"]
    recovery: Float[Tensor, "layer"]
    threshold: float
    confidence: float
    n_items: int
    n_seeds: int
    enough_items: int | None
    enough_seeds: int | None
    n_resamples: int
    metric: str

    @property
    def recovered(self) -> Bool[Tensor, "layer"]:
        """Where recovery is at the threshold or above; nowhere if the context has no effect."""
        return self.recovery >= self.threshold - _TIE

    @property
    def place(self) -> str:
        """The layer as text: "4"; "5 to 8" if it is known no better; empty if there is none."""
        if self.layer is None or self.after is None:
            return ""
        first = self.after + 1
        return str(self.layer) if first == self.layer else f"{first} to {self.layer}"

    @property
    def label(self) -> str:
        """The finding in a few words, with the layer and its interval where there is one."""
        if not self.place:
            return self.verdict
        layer = f"one of layers {self.place}" if " " in self.place else f"layer {self.place}"
        found = {
            "recognised": f"recognised by {layer}",
            "not resolved": f"not resolved: {layer}",
        }
        low_high = "" if self.interval is None else f" [{self.interval[0]}, {self.interval[1]}]"
        return found.get(self.verdict, self.verdict) + low_high

    @property
    def height(self) -> float:
        """The score at the recognition layer; NaN if there is none."""
        if self.layer is None:
            return float("nan")
        return float(self.scores[self.layers.index(self.layer)])

    @property
    def digits(self) -> int:
        """How many decimals tell something of the effect."""
        most = max(map(abs, filter(math.isfinite, self.effect)), default=0)
        size = math.floor(math.log10(most)) if most else 0
        return max(1, 2 - size) if size >= 0 else 1 - size

    @property
    def worth(self) -> str:
        """The effect with its interval as text."""
        effect, low, high = (f"{value:.{self.digits}f}" for value in self.effect)
        return effect if self.n_items == 1 else f"{effect} [{low}, {high}]"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know beside the verdict; often nothing."""
        found = [*self._meaning(), *self._shape()]
        if self.n_items == 1:
            found.append("a single item tells nothing of noise: there are no intervals")
        elif self.n_items < FEW:
            found.append(f"{self.n_items} items are too few for an interval to be relied on")
        return tuple(found)

    def _meaning(self) -> list[str]:
        """What a verdict leaves to be said."""
        if self.verdict == "never recovered":
            sure = self.interval is not None and self.interval[0] == self.layers[-1]
            return [f"its context {'is' if sure else 'seems to be'} needed to the end"]
        if self.verdict == "recognised" and self.layer == self.layers[-1]:
            return [f"layer {self.layer} is the end, where nothing is hidden: it may be never"]
        if self.verdict != "not resolved" or self.interval is None:
            return []
        wide = "the interval spans over half of the layers"
        if (self.layer or 0) - (self.after or 0) - 1 > self.layers[-1] / 2:
            return [f"{wide}: no start layer between {self.after} and {self.layer} ran"]
        if self.enough_items is None:
            more = "items" if self.n_seeds == 1 else "items and seeds"
            return [f"{wide}, and more {more} would hardly do"]
        if self.enough_seeds == self.n_seeds:
            return [f"{wide}; about {self.enough_items} items would do"]
        return [
            f"{wide}, and more items alone would not do; about {self.enough_seeds} seeds with "
            f"{self.enough_items} items would"
        ]

    def _shape(self) -> list[str]:
        """How the curve differs from a rise from the floor to a plateau."""
        found = []
        half_read = "a context read halfway disturbs what the model does without it"
        if self.base:
            found.append(
                f"hiding it from layer {self.base} on costs over twice what hiding it everywhere "
                f"does: {half_read}; recovery is measured from there"
            )
        elif self.lowest and self.verdict != "context harms":
            lower = f"hidden from layer {self.lowest} on, the score falls below the floor"
            found.append(lower if self.layer is None else f"{lower}: {half_read}")
        dips = [layer for layer in self.dips if layer != self.lowest]
        if dips:
            many = "layers" if len(dips) > 1 else "layer"
            found.append(f"the score falls beyond noise at {many} {', '.join(map(str, dips))}")
        return found

    def __str__(self) -> str:
        worth = f"{self.worth} {_UNITS.get(self.metric, self.metric.replace('_', ' '))}"
        noise = " beyond noise" if self.n_items > 1 else ""
        tails = {"no effect": f"{noise}: {worth}", "context harms": f": effect {worth}"}
        first = f"{self.condition}: {self.label}{tails.get(self.verdict, '')}"
        return "; ".join([first, *self.notes])


@checked(ResultError, threshold=number(above=0, most=1))
def locate(
    result: SweepResult,
    *,
    threshold: float = 0.9,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> list[Location]:
    """Find each condition's recognition layer, each against its own ceiling.

    The ceiling is the mean of the level layers at the top, the crossing that of the isotonic
    regression, and a later fall below the threshold counts where noise does not explain it (see
    `masking.crossing`). The interval is the shortest that holds the wanted share of the layers of
    curves drawn around the smoothed one, with the covariance over items and seeds.

    Args:
        threshold: the recovery that counts as recovered, in (0, 1].
        confidence: of the intervals, in (0, 1).
        n_resamples: how many curves are drawn.
        seed: of their own generator.

    Raises:
        ResultError: if an argument is out of range, the result's metric is not known here, or the
            sweep did not mask from each layer on, or its start layers do not go from 0 on.
    """
    scope = result.provenance.get("scope", "from")
    if scope != "from":
        raise ResultError(
            f"this sweep's scope is {scope!r}: a recognition layer is found where masks act from a "
            "layer on; use layer_importance"
        )
    if result.layers[0] != 0 or len(result.layers) < 2:
        refuse("layers", result.layers, "0 and a layer behind it, as sweep runs them", ResultError)
    spread, how = result.spread(), (threshold, confidence, n_resamples, seed)
    return [
        _locate_one(condition, result.metric, Curve(spread[i], result.layers, *how))
        for i, condition in enumerate(result.conditions)
    ]


def _locate_one(condition: str, metric: str, curve: Curve) -> Location:
    scores, effect, rise = curve.scores, curve.effect(), curve.rise()
    base = 0 if rise is None else rise.base
    floor = None if rise is None else scores[curve.layers.index(base)]
    level = scores[-1] if rise is None else rise.level
    worth = np.nan if floor is None else level - floor
    jumps = np.diff(scores)
    enough = (None if rise is None else rise.enough) or (None, None)
    return Location(
        condition=condition,
        layers=curve.layers,
        verdict=curve.verdict(effect, rise),
        layer=None if rise is None else rise.layer,
        after=None if rise is None else rise.after,
        interval=None if rise is None else rise.interval,
        upper_any=None if rise is None else rise.upper_any,
        ceiling=float(scores[-1]),
        floor=float(scores[0]),
        effect=effect,
        lowest=base or curve.layers[curve.lowest(than=0) or 0],
        base=base,
        level=float(level),
        dips=rise.dips if rise is not None and curve.spread.n_items > 1 else (),
        jump_layer=None if rise is None else curve.layers[int(jumps.argmax()) + 1],
        jump=float(jumps.max()),
        scores=torch.from_numpy(scores),
        score_interval=torch.from_numpy(curve.spread.interval(curve.confidence)),
        recovery=torch.from_numpy((scores - (floor or 0)) / worth),
        threshold=curve.threshold,
        confidence=curve.confidence,
        n_items=curve.spread.n_items,
        n_seeds=curve.spread.n_seeds,
        enough_items=enough[0],
        enough_seeds=enough[1],
        n_resamples=curve.n_draws,
        metric=metric,
    )
