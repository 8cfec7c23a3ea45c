"""Where what single layers do comes to an end, and how surely.

Each layer has an effect of its own: the score lost when it alone is treated, or gained. The end is
one layer behind the last whose effect exceeds a share of the largest. Taken at its word that is
biased upward: of twenty layers that do nothing some layer's noise exceeds the share. So the effects
behind the largest are located as `masking.crossing` locates a curve that comes back to its ceiling:
by cumulative sums, begun anew where a later layer's effect is more than noise explains. The
interval assumes no shape. Its ends are one behind the last layer that surely counts, and one behind
the last that may: one that is beaten by no other layer's share, as in multiple comparisons with the
best (Hsu 1981), so that having picked the largest effect for being large does no harm.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from icl_locate.masking.crossing import Crossing
from icl_locate.studies.intervals import Spread

_TIE = 1e-9  # of the largest effect: rounding aside
_STILL = 1e-12
_SURE = 1e9  # standard errors


@dataclass(frozen=True)
class Drop:
    """What single layers do, and what of it counts.

    Attributes:
        effects: of each layer, with how they scatter; above 0 where a layer does something.
        share: of the largest effect, above which a layer's counts.
        confidence: of the interval.
        n_draws, seed, rest_seed: of the curves that are drawn, and of items by seed.
    """

    effects: Spread
    share: float
    confidence: float
    n_draws: int
    seed: int
    rest_seed: int

    @property
    def scores(self) -> Float[ndarray, "layer"]:
        """The mean effects over seeds."""
        return self.effects.mean

    @cached_property
    def noise(self) -> Float[ndarray, "draw layer"]:
        """What measuring again may add to the effects."""
        return self.effects.noise(self.n_draws, self.seed, rest_seed=self.rest_seed)

    @property
    def strongest(self) -> int:
        """The place of the largest effect."""
        return int(self.scores.argmax())

    @property
    def there(self) -> bool:
        """Whether some layer does something, beyond what noise gives the largest of as many."""
        most = float(self.scores.max())
        if self.effects.n_items < 2:
            return most > 0
        return bool(most > np.quantile(self.noise.max(axis=1), self.confidence) + _STILL)

    @cached_property
    def end(self) -> int:
        """One place behind the last layer whose effect counts."""
        found = self.strongest + int(self._crossing.layers(self._falling)[0])
        if self.interval is None:
            return found
        low, high = self.interval
        return min(max(found, low), high)

    @cached_property
    def interval(self) -> tuple[int, int] | None:
        """Between which places it ends; ``None`` of a single item."""
        if self.effects.n_items < 2:
            return None
        may, sure = np.flatnonzero(self._may_count()), np.flatnonzero(self._surely_count())
        high = 1 + int(may[-1])
        low = 1 + int(sure[-1] if len(sure) else may[0])
        return min(low, high), high

    def again(self) -> Int[ndarray, "bound draw"]:
        """From where to where curves drawn anew may end, none beyond the interval.

        Drawn around the smooth curve, and located as it is; and around the curve itself, taken at
        their word. The one has lost what may count and may not, the other has the noise twice.
        """
        low, high = self.interval or (0, len(self.scores))
        noise = np.zeros((self.n_draws, len(self._falling)))
        noise[:, :-1] = -self.noise[:, self.strongest :]
        smooth = self.strongest + self._crossing.drawn(self._falling, noise)
        drawn = self.scores + self.noise
        counts = drawn > self.share * drawn.max(axis=1, keepdims=True)
        plain = len(self.scores) - counts[:, ::-1].argmax(axis=1)
        return np.asarray(np.clip(np.sort([smooth, plain], axis=0), low, high))

    @cached_property
    def _falling(self) -> Float[ndarray, "place"]:
        """From the largest effect on, upside down, and behind the last layer no effect."""
        return np.append(-self.scores[self.strongest :], 0.0)

    @cached_property
    def _crossing(self) -> Crossing:
        """The estimator, for the noise of these; what stands behind the last has none."""
        covariance = np.zeros((len(self._falling), len(self._falling)))
        if self.effects.n_items > 1:
            covariance[:-1, :-1] = self.effects.covariance()[self.strongest :, self.strongest :]
        return Crossing(covariance, 1 - self.share)

    def _contrasts(
        self, place: int
    ) -> tuple[Float[ndarray, "layer"], Float[ndarray, "draw layer"]]:
        """How far a layer's effect lies above the share of each layer's, in standard errors.

        As measured, and as noise alone has it; two that never scatter apart any difference tells.
        """
        apart = self.scores[place] - self.share * self.scores
        noise = self.noise[:, [place]] - self.share * self.noise
        tie = _TIE * float(np.abs(self.scores).max())
        sizes = noise.std(axis=0)
        scatters = sizes > tie
        size = np.where(scatters, sizes, np.inf)
        plain = np.where(np.abs(apart) > tie, np.sign(apart) * _SURE, 0.0)
        return np.where(scatters, apart / size, plain), noise / size

    def _may_count(self) -> Bool[ndarray, "layer"]:
        """Which layers may count: no other one's share beats them beyond noise."""
        found = np.zeros(len(self.scores), dtype=bool)
        for place in range(len(found)):
            measured, noise = self._contrasts(place)
            most = np.quantile((-noise).max(axis=1), (1 + self.confidence) / 2)
            found[place] = -measured.min() <= max(most, 0.0)
        return found

    def _surely_count(self) -> Bool[ndarray, "layer"]:
        """Which layers count beyond noise, all of them together: above every layer's share."""
        against = [self._contrasts(place) for place in range(len(self.scores))]
        largest = np.max([noise[:, self.strongest] for _, noise in against], axis=0)
        least = np.quantile(largest, (1 + self.confidence) / 2)
        return np.array([measured.min() > least for measured, _ in against])
