"""Locate the layer at which a task is recognised, with a bootstrap interval.

``R(l) = (S(l) - floor) / (ceiling - floor)`` is what is recovered of the context's worth when the
context is hidden from layer ``l`` on. The task is recognised at the first layer from which ``R``
stays at the threshold or above for good: a first crossing would not do, since real curves dip.
"""

import math
from collections.abc import Sequence
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
from icl_locate.masking.result import SweepResult
from icl_locate.studies.intervals import tails_of

_TIE = 1e-9  # a recovery at the threshold counts, rounding aside


@short_repr("condition", "layer", "interval", "floor", "ceiling", "jump_layer", "scores")
@dataclass(frozen=True)
class Location:
    """Where one condition's curve recovers.

    Attributes:
        condition: the condition.
        layers: the start layers of the curves below.
        layer: the recognition layer: from here on the context is no longer needed; ``None`` if the
            context has no effect to recover. If not all start layers ran, the lowest of those that
            did.
        after: the start layer that ran before it, at which the context is still needed: the task is
            recognised above it, by ``layer`` at the latest; ``None`` if there is no such layer.
        interval: its confidence interval, both ends included, over all layers at which the task may
            be recognised; ``None`` if there is no layer, or too few items to resample.
        ceiling, floor: the mean scores over seeds with nothing hidden, and all hidden.
        effect: ceiling minus floor with its confidence interval (low, high).
        jump_layer: the layer with the largest rise of ``S`` from the start layer that ran before
            it; ``None`` if there is no effect.
        jump: that rise.
        scores: the curve ``S``, mean over seeds.
        score_interval: its pointwise confidence interval; row 0 low, row 1 high.
        recovery: the curve ``R``; NaN if the context has no effect.
        threshold: the recovery that counted as recovered.
        confidence: of all intervals, such as 0.95.
        n_resamples: of the bootstrap.
    """

    condition: str
    layers: tuple[int, ...]
    layer: int | None
    after: int | None
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

    @property
    def label(self) -> str:
        """The layer in a word: "4"; "5 to 8" if it is known no better; or "no effect"."""
        if self.layer is None or self.after is None:
            return "no effect"
        first = self.after + 1
        return str(self.layer) if first == self.layer else f"{first} to {self.layer}"

    @property
    def height(self) -> float:
        """The score at the recognition layer; NaN if there is none."""
        if self.layer is None:
            return math.nan
        return float(self.scores[self.layers.index(self.layer)])

    def __str__(self) -> str:
        if self.layer is None:
            return f"{self.condition}: no in-context effect"
        low_high = "" if self.interval is None else f" [{self.interval[0]}, {self.interval[1]}]"
        return f"{self.condition}: recognised by layer {self.label}{low_high}"


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
    resampled = result.resampled(n_resamples, seed)
    curves, layers = result.scores.numpy().mean(axis=-1), result.layers
    return [
        _locate_one(name, layers, curve, samples, threshold, confidence, len(result.targets) > 1)
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


def recognition_layer(
    curves: Float[ndarray, "*curve layer"], threshold: float
) -> Int[ndarray, "*curve"]:
    """The place of the first layer from which recovery stays at the threshold or above for good.

    A curve whose ceiling is not above its floor recovers at the last layer only.
    """
    floor, ceiling = curves[..., :1], curves[..., -1:]
    share = max(threshold - _TIE, _TIE)  # nothing is recovered at the floor itself
    wanted = floor + share * (ceiling - floor)
    recovered = (curves >= wanted) & (ceiling > floor)
    recovered[..., -1] = True
    below = ~recovered[..., ::-1]
    n_recovered = np.where(below.any(axis=-1), below.argmax(axis=-1), below.shape[-1])
    return np.asarray(curves.shape[-1] - n_recovered)


def _locate_one(
    condition: str,
    layers: Sequence[int],
    curve: Float[ndarray, "layer"],
    samples: Float[ndarray, "resample layer"],
    threshold: float,
    confidence: float,
    has_spread: bool,
) -> Location:
    tails = tails_of(confidence)
    difference = float(curve[-1] - curve[0])
    low, high = np.quantile(samples[:, -1] - samples[:, 0], tails)
    affected = difference > 0 and low > 0
    place = int(recognition_layer(curve, threshold)) if affected else None
    interval = None
    if affected and has_spread:
        ends = np.quantile(recognition_layer(samples, threshold), tails, method="nearest")
        interval = layers[int(ends[0]) - 1] + 1, layers[int(ends[1])]
    rises = np.diff(curve)
    return Location(
        condition=condition,
        layers=tuple(layers),
        layer=None if place is None else layers[place],
        after=None if place is None else layers[place - 1],
        interval=interval,
        ceiling=float(curve[-1]),
        floor=float(curve[0]),
        effect=(difference, float(low), float(high)),
        jump_layer=layers[int(rises.argmax()) + 1] if affected else None,
        jump=float(rises.max()),
        scores=torch.from_numpy(curve),
        score_interval=torch.from_numpy(np.quantile(samples, tails, axis=0)),
        recovery=torch.from_numpy((curve - curve[0]) / (difference if affected else np.nan)),
        threshold=threshold,
        confidence=confidence,
        n_resamples=len(samples),
    )
