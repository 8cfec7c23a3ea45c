"""Where a noisy curve reaches its plateau for good, and how surely.

``D(m) = S(m) - (1 - t) S(0) - t P`` is how far the score with the context hidden from layer ``m``
on lies above the threshold: ``t`` of the way from the floor ``S(0)`` to the ceiling ``P``. The
lowest layer with ``D >= 0`` from there on is biased upward, the more so the longer and the noisier
the plateau: one unlucky layer of fifty moves it. So the ceiling is the mean of all level layers at
the top, the crossing is that of the isotonic regression, and what falls below the threshold
afterwards counts only where noise does not explain it.
"""

from functools import cached_property
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from icl_locate.studies.draws import shortest

LEVEL = 2.5
"""Standard errors by which layers of a plateau may differ."""
FALSE_DIPS = 0.01
"""The share of plateaus on which some layer may be taken for a dip that is none."""
_WINDOWS = (1, 2, 4, 8)
_TIE = 1e-9  # a score at the threshold counts, rounding aside

Curves = Float[ndarray, "*curve layer"]


class Crossing:
    """The estimator for curves with one covariance between layers.

    Args:
        covariance: of the mean curve's noise.
        threshold: the share of the way from floor to ceiling that counts as recovered.
    """

    def __init__(self, covariance: Float[ndarray, "layer layer"], threshold: float) -> None:
        self.covariance = covariance
        self.n = len(covariance) - 1
        # at the floor itself nothing is recovered
        self.threshold = max(threshold - _TIE, _TIE)

    def layers(self, curves: Curves) -> tuple[Int[ndarray, "*curve"], Int[ndarray, "*curve"]]:
        """Where each curve crosses for good: the place of the layer, and of the last real dip.

        The place of the dip is 0 where there is none. Curves' first and last layers are floor and
        ceiling: nothing is recovered at the first, everything at the last.
        """
        above = self.above(curves)
        rising = above.cumsum(axis=-1)
        rising[..., -1] = np.inf
        layer = np.asarray(1 + rising.argmin(axis=-1))
        dip = np.zeros_like(layer)
        places = np.arange(self.n + 1)
        for _ in range(2):
            real = (above < 0) & self._dips(curves, layer) & (places >= layer[..., None])
            real[..., -1] = False
            found = real.any(axis=-1)
            if not found.any():
                break
            dip = np.where(found, self.n - real[..., ::-1].argmax(axis=-1), dip)
            after = np.where(places >= dip[..., None], rising, np.inf)
            layer = np.asarray(np.where(found, 1 + after.argmin(axis=-1), layer))
        return layer, dip

    def smooth(self, curve: Float[ndarray, "layer"]) -> Float[ndarray, "layer"]:
        """The curve that draws are made around: isotonic below and above its last real dip.

        At most at the ceiling; floor and end are as measured. Around the measured curve itself
        draws would have its noise a second time.
        """
        dip = int(self.layers(curve)[1])
        smooth = np.concatenate([isotonic(curve[:dip]), isotonic(curve[dip:])])
        capped = np.minimum(smooth, self.ceiling(curve))
        smooth[dip:] = capped[dip:]
        smooth[0], smooth[-1] = curve[0], curve[-1]
        return smooth

    def drawn(
        self, curve: Float[ndarray, "layer"], noise: Float[ndarray, "draw layer"]
    ) -> Int[ndarray, "draw"]:
        """Where curves drawn around the smooth one cross, given what measuring again may add."""
        return self.layers(self.smooth(curve) + noise)[0]

    def interval(
        self, curve: Float[ndarray, "layer"], noise: Float[ndarray, "draw layer"], confidence: float
    ) -> tuple[int, int, int]:
        """Between which places a curve rises for good; and by which it does whatever its shape.

        The first two hold, in the shortest range, those of curves drawn around the smooth one, and
        end where the third does: one place behind the last that a simultaneous band does not hold
        above the threshold.

        Args:
            noise: what measuring again may add.
        """
        place = int(self.layers(curve)[0])
        low, high = shortest(self.drawn(curve, noise), place, confidence)
        weights = above_threshold(self.n, self.threshold)
        errors, drawn = self.errors(weights), noise @ weights.T
        sizes = np.divide(drawn, errors, out=np.zeros_like(drawn), where=errors > 0)
        widest = np.quantile(sizes.max(axis=1, initial=0), (1 + confidence) / 2)
        tie = _TIE * abs(curve[-1] - curve[0])
        open_still = np.flatnonzero(weights @ curve - widest * errors < -tie)
        upper = int(open_still[-1]) + 2 if len(open_still) else 1
        return low, min(high, max(upper, place)), upper

    def ceiling(self, curves: Curves) -> Float[ndarray, "*curve"]:
        """The mean of the longest run of top layers that is level; noisy ones weigh less.

        A run is level while no layer of it differs from the mean above it, nor its lower half from
        its upper half, beyond noise.
        """
        uneven = np.zeros(curves.shape, dtype=bool)
        for weights, errors in self._level_tests:
            uneven |= np.abs(curves @ weights.T) > LEVEL * errors + _TIE
        uneven[..., 0] = True  # the floor is no part of a plateau
        first = self.n - uneven[..., -2::-1].argmax(axis=-1)
        levels = curves @ self._level_weights.T
        return np.asarray(np.take_along_axis(levels, np.expand_dims(first, -1), axis=-1)[..., 0])

    def errors(self, weights: Float[ndarray, "contrast layer"]) -> Float[ndarray, "contrast"]:
        """Standard errors of weighted sums of a curve's scores."""
        variances = np.einsum("ml,lk,mk->m", weights, self.covariance, weights)
        return np.asarray(np.sqrt(np.maximum(variances, 0)))

    def above(self, curves: Curves) -> Curves:
        """How far each layer lies above the threshold; a tie counts as above."""
        floor, top = curves[..., :1], self.ceiling(curves)[..., None]
        slack = _TIE * np.abs(top - floor)
        return np.asarray(curves - (1 - self.threshold) * floor - self.threshold * top + slack)

    def _dips(self, curves: Curves, layer: Int[ndarray, "*curve"]) -> ndarray:
        """Which layers lie below the plateau that begins at a layer, noise aside.

        Against the plateau's mean, and against their neighbours, whose noise may be much the same.
        """
        places = np.minimum(layer, self.n)
        level = np.take_along_axis(_means_above(curves), places[..., None], axis=-1)
        margin = self._critical[places][..., None]
        below = curves < level - margin * self._plateau_errors[places] - _TIE
        weights, errors = self._neighbours
        return np.asarray(below | (curves @ weights.T < -margin * errors - _TIE))

    @cached_property
    def _critical(self) -> Float[ndarray, "start"]:
        """Standard errors that make a dip, by where the plateau begins: more of more layers."""
        lengths = np.maximum(self.n - np.arange(self.n + 1), 1)
        return np.array([NormalDist().inv_cdf(1 - FALSE_DIPS / length) for length in lengths])

    @cached_property
    def _level_tests(self) -> list[tuple[ndarray, ndarray]]:
        """For each layer: against the mean above it; and the halves from there on."""
        single, halves = np.zeros((2, self.n + 1, self.n + 1))
        for k in range(self.n):
            single[k, k], single[k, k + 1 :] = 1, -1 / (self.n - k)
            middle = (k + self.n) // 2 + 1
            halves[k, k:middle] = 1 / (middle - k)
            halves[k, middle:] = -1 / (self.n + 1 - middle)
        return [(weights, self.errors(weights)) for weights in (single, halves)]

    @cached_property
    def _level_weights(self) -> Float[ndarray, "start layer"]:
        """Of each layer in the mean from a start on: noise beyond the others' counts against it.

        A layer of the rise that scatters much would pull down a plateau that hardly scatters.
        """
        own = np.maximum(np.diag(self.covariance), 0)
        weights = np.zeros_like(self.covariance)
        for k in range(self.n + 1):
            noise = own[k:] + own[k:].mean()
            weights[k, k:] = 1 / noise if noise.all() else 1
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    @cached_property
    def _plateau_errors(self) -> Float[ndarray, "start layer"]:
        """Standard errors of a layer's score minus the mean from a start on."""
        counts = self.n + 1 - np.arange(self.n + 1)
        means = np.triu(np.ones((self.n + 1, self.n + 1))) / counts[:, None]
        between = means @ self.covariance
        own, mean = np.diag(self.covariance), np.einsum("sl,sl->s", between, means)
        return np.asarray(np.sqrt(np.maximum(own - 2 * between + mean[:, None], 0)))

    @cached_property
    def _neighbours(self) -> tuple[ndarray, ndarray]:
        """For each layer, the contrast with those around it that has the least noise."""
        best = np.zeros((self.n + 1, self.n + 1))
        least = np.full(self.n + 1, np.inf)
        for window in _WINDOWS:
            weights = np.zeros_like(best)
            for m in range(1, self.n):
                near = np.arange(max(m - window, 0), min(m + window, self.n) + 1)
                weights[m, near] = -1 / (len(near) - 1)
                weights[m, m] = 1
            errors = self.errors(weights)
            errors[[0, -1]] = np.inf  # no dip at the floor, nor at the end
            better = errors < least - 1e-15
            best[better], least = weights[better], np.where(better, errors, least)
        return best, least


def above_threshold(n: int, threshold: float) -> Float[ndarray, "contrast layer"]:
    """The contrasts of each layer between the ends with the threshold between floor and ceiling."""
    weights = np.eye(n + 1)[1:-1]
    weights[:, 0] -= 1 - threshold
    weights[:, -1] -= threshold
    return weights


def isotonic(values: Float[ndarray, "layer"]) -> Float[ndarray, "layer"]:
    """The non-decreasing curve nearest to some values: neighbours that fall are averaged."""
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        mean, size = value, 1
        while blocks and blocks[-1][0] >= mean:
            other, more = blocks.pop()
            mean, size = (mean * size + other * more) / (size + more), size + more
        blocks.append((mean, size))
    return np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])


def _means_above(curves: Curves) -> Curves:
    """At each layer, the mean from there on."""
    counts = curves.shape[-1] - np.arange(curves.shape[-1])
    return np.asarray(curves[..., ::-1].cumsum(axis=-1)[..., ::-1] / counts)
