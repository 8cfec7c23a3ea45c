"""How a curve of each kind tells a layer: one entry a kind, each with its draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from icl_locate.agreement.curve import MethodCurve
from icl_locate.agreement.drop import Drop
from icl_locate.checks.reprs import short_repr
from icl_locate.masking.curve import Curve
from icl_locate.studies.intervals import Spread
from icl_locate.vectors.peak import locate_peak
from icl_locate.vectors.scores import LayerCurve

Strength = tuple[float, float, float]
_TIE = 1e-9  # of the scores: rounding aside


@dataclass(frozen=True)
class How:
    """How layers are located.

    Attributes:
        confidence: of all intervals.
        n_resamples: curves that are drawn.
        seed, rest_seed: of the draws of items, and of items by seed: equal ones are paired.
    """

    confidence: float
    n_resamples: int
    seed: int
    rest_seed: int


@short_repr("verdict", "layer", "interval", "effect")
@dataclass(frozen=True)
class Found:
    """What a curve tells.

    Attributes:
        layer: on the common axis; ``None`` if there is none.
        interval: of it, both ends included.
        verdict: in a word.
        effect: how much there is to locate, with its interval (low, high); NaN for a single item.
        draws: from which layer to which it may be, by draw of items and seeds; in the last column,
            it itself. ``None`` where there is no layer, or a single item.
        notes: what a reader must know of the curve.
    """

    layer: int | None
    interval: tuple[int, int] | None
    verdict: str
    effect: Strength
    draws: Int[ndarray, "bound draw"] | None
    notes: tuple[str, ...] = ()


def find_plateau(curve: MethodCurve, how: How) -> Found:
    """The first layer from which the curve stays up: that of `icl_locate.locate`."""
    found = Curve(
        curve.scores, curve.layers, curve.share, how.confidence, how.n_resamples, how.seed
    )
    effect, rise = found.effect(), found.rise()
    verdict = found.verdict(effect, rise)
    if rise is None:
        return Found(None, None, verdict, effect, None)
    draws = None if rise.interval is None else found.again(rise, how.rest_seed)
    notes = []
    if rise.base:
        notes.append(f"the score is lowest at layer {rise.base}: recovery is measured from there")
    falls = ", ".join(str(layer) for layer in rise.dips if layer != rise.base)
    if falls:
        notes.append(f"the score falls beyond noise at layer {falls}")
    return Found(rise.layer, rise.interval, verdict, effect, draws, tuple(notes))


def find_peak(curve: MethodCurve, how: How) -> Found:
    """The layer of the highest score: that of `icl_locate.vectors.locate_peak`."""
    peak = locate_peak(
        _layer_curve(curve), confidence=how.confidence, n_resamples=how.n_resamples, seed=how.seed
    )
    effect = _strength(curve.effects, how.confidence)
    draws = None
    if peak.layer is not None and peak.interval is not None:
        places = np.flatnonzero(np.isin(curve.layers, peak.candidates))
        spread = curve.scores[places]
        noise = spread.noise(how.n_resamples, how.seed, rest_seed=how.rest_seed)
        draws = _highest(peak.candidates, np.vstack([spread.mean + noise, spread.mean]))
    return Found(peak.layer, peak.interval, peak.verdict, effect, draws)


def _highest(
    layers: tuple[int, ...], curves: Float[ndarray, "draw layer"]
) -> Int[ndarray, "bound draw"]:
    """From the first to the last layer that is highest: of ties none is more so than another."""
    top = curves.max(axis=1, keepdims=True)
    tied = curves >= top - _TIE * np.abs(curves).max()
    places = np.array(layers)
    first, last = places[tied.argmax(axis=1)], places[::-1][tied[:, ::-1].argmax(axis=1)]
    return np.stack([first, last])


def find_drop(curve: MethodCurve, how: How) -> Found:
    """One layer behind the last whose effect counts.

    A gain to the last layer of all ends nowhere: what is done there needs no layer to be read.
    """
    drop = Drop(
        curve.effects, curve.share, how.confidence, how.n_resamples, how.seed,
        how.rest_seed,
    )  # fmt: skip
    what = "damage" if curve.lowers else "gain"
    effect = _strength(curve.effects, how.confidence)
    if not drop.there or effect[1] <= 0:  # of few seeds the interval knows more
        return Found(None, None, f"no {what}", effect, None)
    ends = np.array([curve.layers[0], *(layer + 1 for layer in curve.layers)])
    layer = int(ends[drop.end])
    low, high = (int(ends[place]) for place in drop.interval or (drop.end, drop.end))
    if not curve.lowers and low == ends[-1]:
        return Found(None, None, "gain never ends", effect, None)
    if drop.interval is None:
        return Found(layer, None, "not resolved", effect, None)
    wide = high - low > len(curve.layers) / 2
    itself = np.full((2, 1), drop.end)
    draws = ends[np.concatenate([drop.again(), itself], axis=1)]
    return Found(layer, (low, high), "not resolved" if wide else f"{what} ends", effect, draws)


def find_rise(curve: MethodCurve, how: How) -> Found:
    """The first layer whose effect counts: where it ends, seen from the last layer on."""
    upside = Spread(curve.effects.scores[::-1], curve.effects.influence[::-1])
    drop = Drop(
        upside, curve.share, how.confidence, how.n_resamples, how.seed, how.rest_seed
    )  # fmt: skip
    effect = _strength(curve.effects, how.confidence)
    if not drop.there or effect[1] <= 0:
        return Found(None, None, "no rise", effect, None)
    layers = np.array([*curve.layers, curve.layers[-1] + 1])[::-1]
    layer = int(layers[drop.end])
    if drop.interval is None:
        return Found(layer, None, "not resolved", effect, None)
    high, low = (int(layers[place]) for place in drop.interval)
    wide = high - low > len(curve.layers) / 2
    itself = np.full((2, 1), drop.end)
    draws = layers[np.concatenate([drop.again(), itself], axis=1)][::-1]
    return Found(layer, (low, high), "not resolved" if wide else "reached", effect, draws)


KINDS: Mapping[str, Callable[[MethodCurve, How], Found]] = MappingProxyType(
    {"plateau": find_plateau, "peak": find_peak, "drop": find_drop, "rise": find_rise}
)


def _strength(effects: Spread, confidence: float) -> Strength:
    """The largest effect of a layer, with its interval: above the true one by some noise."""
    top = int(effects.mean.argmax())
    low, high = effects.interval(confidence)[:, top]  # of few seeds all layers together tell more
    return float(effects.mean[top]), float(low), float(high)


def _layer_curve(curve: MethodCurve) -> LayerCurve:
    """The curve as `locate_peak` takes it."""
    scores = torch.from_numpy(curve.cells.scores)
    return LayerCurve(
        layers=curve.layers,
        seeds=curve.seeds,
        statistics=curve.statistics,
        scores=scores[:-1],
        floor=scores[-1],
        metric=curve.metric,
        provenance=curve.provenance,
        custom_metric=curve.custom_metric,
    )
