"""Where a curve over layers that rises and falls again has its peak, and how surely.

Such a curve says where something is, not from where on: `icl_locate.locate`, which looks for the
layer from which a curve stays up, is not for it. The layer of the highest score is drawn to
whichever layer of a plateau was lucky, and drawing the curve anew around its noisy self adds the
noise a second time. So the interval asks of each layer whether it could be the peak: it spans the
layers that no other one beats beyond noise (multiple comparisons with the best, Hsu 1981), all of
them on the same draws of items and seeds.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.arguments import refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import MANY, checked, number, whole
from icl_locate.errors import ResultError
from icl_locate.studies.intervals import Spread
from icl_locate.studies.result import Measured

Verdict = Literal["peak", "no peak", "not resolved"]

_TIE = 1e-9  # a score at the threshold counts, rounding aside
_STILL = 1e-9  # a difference that scatters less does not scatter


@short_repr("verdict", "layer", "interval", "last_layer", "value", "baseline", "scores")
@dataclass(frozen=True)
class Peak:
    """Where a curve has its peak.

    Attributes:
        verdict: "peak"; "no peak": the layers do not differ beyond noise, or none lies above the
            baseline beyond noise; "not resolved": the interval spans over half of the layers, or a
            single item gives none.
        layer: that of the highest mean score, the lowest of equals; ``None`` if there is no peak.
        interval: from the first to the last layer that could be the peak, both included; ``None``
            if there is no peak, or a single item.
        candidates: the layers that could be: no other one beats them beyond noise.
        last_layer: the last layer still at ``threshold`` of the way from the baseline to the peak,
            whatever lies between; ``None`` if there is no peak.
        value: the score at ``layer``, or the highest one: above the true one by some noise, since
            it was chosen for being high.
        value_interval: of the score at that layer, (low, high); NaN for a single item.
        baseline: the score that ``last_layer`` is measured from: the curve's own baseline; without
            one 0, or the lowest score where scores lie below 0.
        layers: the labels of the scores.
        scores: the curve, mean over seeds.
        score_interval: its pointwise confidence interval; row 0 low, row 1 high.
        threshold, confidence: as they were asked for.
        n_items, n_seeds: what the curve was measured on.
        metric: the metric's name.
    """

    verdict: Verdict
    layer: int | None
    interval: tuple[int, int] | None
    candidates: tuple[int, ...]
    last_layer: int | None
    value: float
    value_interval: tuple[float, float]
    baseline: float
    layers: tuple[int, ...]
    scores: Float[Tensor, "layer"]
    score_interval: Float[Tensor, "bound layer"]
    threshold: float
    confidence: float
    n_items: int
    n_seeds: int
    metric: str

    @property
    def label(self) -> str:
        """The finding in a few words."""
        if self.layer is None:
            return self.verdict
        low_high = "" if self.interval is None else f" [{self.interval[0]}, {self.interval[1]}]"
        found = f"peak at layer {self.layer}{low_high}, until layer {self.last_layer}"
        return found if self.verdict == "peak" else f"{self.verdict}: {found}"

    def __str__(self) -> str:
        return self.label


@checked(
    ResultError,
    threshold=number(above=0, most=1),
    confidence=number(above=0, below=1),
    n_resamples=whole(1, MANY),
)
def locate_peak(
    curve: Measured,
    *,
    threshold: float = 0.9,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Peak:
    """Locate the peak of a curve over layers.

    Simulated curves of 12 to 32 layers that rise and fall, with plateaus and ties, of 16 to 64
    items under 1 to 5 seeds: the interval held every true peak in 99.6 % of runs, and in 94 % in
    the worst of 234 settings; flat curves had no peak in 89 % of runs or more.

    Args:
        curve: a result whose axes are "layer", or "layer" and "seed", such as that of
            `task_vectors`. Where it has a ``baseline``, a `Spread` of one score on the same items
            and seeds, the peak has to lie above it.
        threshold: the share of the way from the baseline to the peak that ``last_layer`` keeps.
        confidence: of the intervals, in (0, 1).
        n_resamples: how many times items and seeds are drawn.
        seed: of their generator.

    Raises:
        ResultError: if the curve has other axes, or an argument is out of range.
    """
    if [*curve.axes] not in (["layer"], ["layer", "seed"]):
        expected = "layer, or layer and seed, such as those that task_vectors gives"
        refuse("the axes of curve", [*curve.axes], expected, ResultError)
    spread, base = curve.spread(), getattr(curve, "baseline", None)
    could_be = np.ones(len(spread.mean), dtype=bool)
    if spread.n_items > 1:
        could_be = _could_be(spread, base, confidence, (n_resamples, seed))
    return _peak(curve, spread, base, could_be, threshold, confidence)


def _peak(
    curve: Measured,
    spread: Spread,
    base: Spread | None,
    could_be: Bool[ndarray, "layer"],
    threshold: float,
    confidence: float,
) -> Peak:
    layers = tuple(int(layer) for layer in curve.axes["layer"])
    mean, known = spread.mean, spread.n_items > 1
    candidates = tuple(layer for layer, found in zip(layers, could_be, strict=True) if found)
    floor = min(0.0, float(mean.min())) if base is None else float(base.mean)
    top = int(mean.argmax())
    still = mean >= floor + (threshold - _TIE) * (mean[top] - floor)
    verdict: Verdict = "peak"
    if not candidates:
        verdict = "no peak"
    elif not known or np.ptp(np.flatnonzero(could_be)) + 1 > len(layers) / 2:
        verdict = "not resolved"
    low, high = spread[top].interval(confidence)
    return Peak(
        verdict=verdict,
        layer=layers[top] if candidates else None,
        interval=(candidates[0], candidates[-1]) if candidates and known else None,
        candidates=candidates,
        last_layer=layers[int(np.flatnonzero(still)[-1])] if candidates else None,
        value=float(mean[top]),
        value_interval=(float(low), float(high)),
        baseline=floor,
        layers=layers,
        scores=torch.from_numpy(mean),
        score_interval=torch.from_numpy(spread.interval(confidence)),
        threshold=threshold,
        confidence=confidence,
        n_items=spread.n_items,
        n_seeds=spread.n_seeds,
        metric=curve.metric,
    )


def _could_be(
    spread: Spread, base: Spread | None, confidence: float, drawn: tuple[int, int]
) -> Bool[ndarray, "layer"]:
    """The layers that could be the peak; none where the curve is flat, or not above its baseline.

    Args:
        drawn: how many draws, and their seed.
    """
    noise = spread.noise(*drawn)
    could_be = unbeaten(spread.mean, noise, confidence)
    varies = _exceeds(np.ptp(spread.mean), np.ptp(noise, axis=1), confidence)
    rises = True
    if base is not None:
        above = spread - Spread(base.scores[None], base.influence[None])
        rises = _exceeds(above.mean.max(), above.noise(*drawn).max(axis=1), confidence)
    return could_be if varies and rises else np.zeros_like(could_be)


def unbeaten(
    mean: Float[ndarray, "layer"], noise: Float[ndarray, "draw layer"], confidence: float
) -> Bool[ndarray, "layer"]:
    """Which layers could be the best: none of the others beats them beyond noise.

    A layer is beaten if its largest standardised distance below another one is larger than noise
    alone makes it in a share of ``confidence`` of the draws, were all layers equal. Two layers that
    never scatter apart are told apart by any difference.
    """
    found = np.zeros(len(mean), dtype=bool)
    for place in range(len(mean)):
        apart, below = noise - noise[:, [place]], mean - mean[place]
        deviation = apart.std(axis=0)
        scatters = deviation > _STILL
        size = np.where(scatters, deviation, np.inf)
        largest = float((below / size).max())
        found[place] = not (
            _exceeds(largest, (apart / size).max(axis=1), confidence)
            or (below[~scatters] > _TIE).any()
        )
    return found


def _exceeds(value: float, noise: Float[ndarray, "draw"], confidence: float) -> bool:
    """Whether a value lies above what noise alone gives in a share of the draws."""
    return bool(value > np.quantile(noise, confidence) + _TIE)
