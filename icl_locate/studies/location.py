"""Locate the layer at which a task is recognised, with a bootstrap interval.

``R(l) = (S(l) - floor) / (ceiling - floor)`` is what is recovered of the context's worth when the
context is hidden from layer ``l`` on. The task is recognised at the first layer from which ``R``
stays at the threshold or above for good: a first crossing would not do, since real curves dip.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.arguments import check_number
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked, number
from icl_locate.errors import ResultError
from icl_locate.studies.intervals import bootstrap_scores
from icl_locate.studies.sweep_result import SweepResult

_TIE = 1e-9  # a recovery at the threshold counts, rounding aside


@short_repr("condition", "layer", "interval", "floor", "ceiling", "jump_layer", "scores")
@dataclass(frozen=True)
class Location:
    """Where one condition's curve recovers.

    Attributes:
        condition: the condition.
        layer: the recognition layer: from here on the context is no longer needed; ``None`` if the
            context has no effect to recover.
        interval: its confidence interval, both ends included; ``None`` if there is no layer, or too
            few items to resample.
        ceiling, floor: the mean scores over seeds with nothing hidden, and all hidden.
        effect: ceiling minus floor with its confidence interval (low, high).
        jump_layer: the layer ``l`` with the largest rise ``S(l) - S(l - 1)``; ``None`` if none.
        jump: that rise.
        scores: the curve ``S``, mean over seeds.
        score_interval: its pointwise confidence interval; row 0 low, row 1 high.
        recovery: the curve ``R``; NaN if the context has no effect.
        threshold: the recovery that counted as recovered.
        confidence: of all intervals, such as 0.95.
        n_resamples: of the bootstrap.
    """

    condition: str
    layer: int | None
    interval: tuple[int, int] | None
    ceiling: float
    floor: float
    effect: tuple[float, float, float]
    jump_layer: int | None
    jump: float
    scores: Float[Tensor, "layer"]
    score_interval: Float[Tensor, "bound layer"]
    recovery: Float[Tensor, "layer"]
    threshold: float
    confidence: float
    n_resamples: int

    @property
    def recovered(self) -> Bool[Tensor, "layer"]:
        """Where recovery is at the threshold or above; nowhere if the context has no effect."""
        return self.recovery >= self.threshold - _TIE

    def __str__(self) -> str:
        if self.layer is None:
            return f"{self.condition}: no in-context effect"
        low_high = "" if self.interval is None else f" [{self.interval[0]}, {self.interval[1]}]"
        return f"{self.condition}: recognised by layer {self.layer}{low_high}"


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

    Intervals are percentiles of a paired bootstrap: every resample draws items and seeds with
    replacement, the same ones for all layers and conditions, and goes through the whole analysis.

    Args:
        threshold: the recovery that counts as recovered, in (0, 1].
        confidence: of the intervals, in (0, 1).
        n_resamples: of the bootstrap.
        seed: of the bootstrap's own generator.

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
    resampled = bootstrap_curves(result, n_resamples, seed)
    curves = result.scores.numpy().mean(axis=-1)
    return [
        _locate_one(name, curve, samples, threshold, confidence, len(result.targets) > 1)
        for name, curve, samples in zip(
            result.conditions, curves, resampled.swapaxes(0, 1), strict=True
        )
    ]


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is no share.

    Raises:
        ResultError: if it is not between 0 and 1, both excluded.
    """
    check_number("confidence", confidence, above=0, below=1, error=ResultError)


def bootstrap_curves(
    result: SweepResult, n_resamples: int, seed: int
) -> Float[ndarray, "resample condition layer"]:
    """Curves of resampled items and seeds, averaged over the resampled seeds."""
    return bootstrap_scores(result.scorer(), result.statistics.numpy(), n_resamples, seed)


def recognition_layer(
    curves: Float[ndarray, "*curve layer"], threshold: float
) -> Int[ndarray, "*curve"]:
    """The first layer from which recovery stays at the threshold or above, up to the last layer.

    A curve whose ceiling is not above its floor recovers at the last layer only.
    """
    floor, ceiling = curves[..., :1], curves[..., -1:]
    wanted = floor + (threshold - _TIE) * (ceiling - floor)
    recovered = (curves >= wanted) & (ceiling > floor)
    recovered[..., -1] = True
    below = ~recovered[..., ::-1]
    n_recovered = np.where(below.any(axis=-1), below.argmax(axis=-1), below.shape[-1])
    return np.asarray(curves.shape[-1] - n_recovered)


def _locate_one(
    condition: str,
    curve: Float[ndarray, "layer"],
    samples: Float[ndarray, "resample layer"],
    threshold: float,
    confidence: float,
    has_spread: bool,
) -> Location:
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    difference = float(curve[-1] - curve[0])
    low, high = np.quantile(samples[:, -1] - samples[:, 0], tails)
    affected = difference > 0 and low > 0
    interval = None
    if affected and has_spread:
        ends = np.quantile(recognition_layer(samples, threshold), tails, method="nearest")
        interval = int(ends[0]), int(ends[1])
    rises = np.diff(curve)
    return Location(
        condition=condition,
        layer=int(recognition_layer(curve, threshold)) if affected else None,
        interval=interval,
        ceiling=float(curve[-1]),
        floor=float(curve[0]),
        effect=(difference, float(low), float(high)),
        jump_layer=int(rises.argmax()) + 1 if affected else None,
        jump=float(rises.max()),
        scores=torch.from_numpy(curve),
        score_interval=torch.from_numpy(np.quantile(samples, tails, axis=0)),
        recovery=torch.from_numpy((curve - curve[0]) / (difference if affected else np.nan)),
        threshold=threshold,
        confidence=confidence,
        n_resamples=len(samples),
    )
