"""Locate the layer at which a task is recognised, with its interval and a verdict.

``R(l) = (S(l) - floor) / (ceiling - floor)`` is what is recovered of the context's worth when the
context is hidden from layer ``l`` on. The task is recognised at the first layer from which ``R``
stays at the threshold or above for good: a first crossing would not do, since real curves dip.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from icl_locate.checks.arguments import check_number
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked, number
from icl_locate.errors import ResultError
from icl_locate.masking.curve import Curve, Verdict
from icl_locate.masking.result import SweepResult

_TIE = 1e-9  # a recovery at the threshold counts, rounding aside
_FEW = 8


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
            interval spans over half of the layers.
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
            else 0. Where the floor lies nearer to the ceiling than to it, recovery is measured from
            there.
        level: the plateau's mean score, which recovery is measured to: steadier than the ceiling.
        dips: start layers at which the score falls, beyond noise, below an earlier one's and below
            the threshold.
        jump_layer: the layer with the largest rise of ``S`` from the start layer that ran before
            it; ``None`` if there is no effect.
        jump: that rise.
        scores: the curve ``S``, mean over seeds.
        score_interval: its pointwise confidence interval; row 0 low, row 1 high.
        recovery: the curve ``R``, from the floor (or the lowest score) to the level; NaN if the
            context has no effect.
        threshold: the recovery that counted as recovered.
        confidence: of all intervals, such as 0.95.
        n_items, n_seeds: what the curve was measured on.
        enough_items: about how many items would resolve the layer where the verdict is "not
            resolved"; ``None`` if it is another, or if no number of items alone would.
        n_resamples: curves that were drawn.
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
    n_resamples: int

    @property
    def recovered(self) -> Bool[Tensor, "layer"]:
        """Where recovery is at the threshold or above; nowhere if the context has no effect."""
        return self.recovery >= self.threshold - _TIE

    @property
    def label(self) -> str:
        """The layer in a word: "4"; "5 to 8" if it is known no better; or the verdict."""
        if self.layer is None or self.after is None:
            return self.verdict
        first = self.after + 1
        return str(self.layer) if first == self.layer else f"{first} to {self.layer}"

    @property
    def height(self) -> float:
        """The score at the recognition layer; NaN if there is none."""
        if self.layer is None:
            return float("nan")
        return float(self.scores[self.layers.index(self.layer)])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know beside the verdict; often nothing."""
        found = []
        if self.verdict == "not resolved":
            enough = self.enough_items
            found.append(
                f"the interval spans over half of the layers: about {enough} items would do"
                if enough
                else "the interval spans over half of the layers, and more items alone would not do"
            )
        if self.lowest:
            found.append(
                f"hiding it from layer {self.lowest} on costs more than hiding it everywhere: what "
                "is left, such as instructions kept, does without it what a part of it disturbs"
            )
        if self.n_items < _FEW:
            found.append(f"{self.n_items} items are too few for an interval to be relied on")
        return tuple(found)

    def __str__(self) -> str:
        low_high = "" if self.interval is None else f" [{self.interval[0]}, {self.interval[1]}]"
        effect, low, high = self.effect
        worth = f"effect {effect:.3g} [{low:.3g}, {high:.3g}]"
        said = {
            "recognised": f"recognised by layer {self.label}{low_high}",
            "never recovered": f"never recovered: its context is needed to the end{low_high}",
            "no effect": f"no effect ({worth})",
            "context harms": f"context harms ({worth})",
            "not resolved": f"not resolved: layer {self.label}{low_high}",
        }
        return "; ".join([f"{self.condition}: {said[self.verdict]}", *self.notes])


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
            sweep did not mask from each layer on.
    """
    scope = result.provenance.get("scope", "from")
    if scope != "from":
        raise ResultError(
            f"this sweep's scope is {scope!r}: a recognition layer is found where masks act from a "
            "layer on; use layer_importance"
        )
    spread, how = result.spread(), (threshold, confidence, n_resamples, seed)
    return [
        _locate_one(condition, Curve(spread[i], result.layers, *how))
        for i, condition in enumerate(result.conditions)
    ]


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is no share.

    Raises:
        ResultError: if it is not between 0 and 1, both excluded.
    """
    check_number("confidence", confidence, above=0, below=1, error=ResultError)


def _locate_one(condition: str, curve: Curve) -> Location:
    scores, effect, rise = curve.scores, curve.effect(), curve.rise()
    floor = None if rise is None else scores[curve.layers.index(rise.base)]
    level = scores[-1] if rise is None else rise.level
    worth = np.nan if floor is None else level - floor
    jumps = np.diff(scores)
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
        lowest=curve.layers[curve.lowest(than=0) or 0],
        level=float(level),
        dips=() if rise is None else rise.dips,
        jump_layer=None if rise is None else curve.layers[int(jumps.argmax()) + 1],
        jump=float(jumps.max()),
        scores=torch.from_numpy(scores),
        score_interval=torch.from_numpy(curve.spread.interval(curve.confidence)),
        recovery=torch.from_numpy((scores - (floor or 0)) / worth),
        threshold=curve.threshold,
        confidence=curve.confidence,
        n_items=curve.spread.n_items,
        n_seeds=curve.spread.n_seeds,
        enough_items=None if rise is None else rise.enough_items,
        n_resamples=curve.n_draws,
    )
