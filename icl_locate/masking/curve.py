"""One condition's curve with its scatter: is there an effect, where does it rise, how surely."""

from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from icl_locate.masking.crossing import FALSE_DIPS, Crossing
from icl_locate.studies.intervals import Spread, shortest

Verdict = Literal["recognised", "never recovered", "no effect", "context harms", "not resolved"]
_TIMES = (2, 4, 8, 16, 32, 64)
"""How many times the items are tried when too few were measured."""


@dataclass(frozen=True)
class Rise:
    """Where a curve rises for good; places count the start layers that ran.

    Attributes:
        base: the place that recovery is measured from.
        place: the first at which it is recovered for good.
        interval, upper_any: as `Location` says; ``None`` for a single item.
        level: the plateau's mean score.
        dips: places of real dips.
        enough_items: as `Location` says.
    """

    base: int
    place: int
    interval: tuple[int, int] | None
    upper_any: int | None
    level: float
    dips: tuple[int, ...]
    enough_items: int | None = None


@dataclass(frozen=True)
class Curve:
    """A curve over start layers, and what counts as recovered.

    Attributes:
        spread: the scores, with how they scatter; its cells are the start layers.
        threshold, confidence: as in `locate`.
        n_draws, seed: of the curves that are drawn.
    """

    spread: Spread
    threshold: float
    confidence: float
    n_draws: int
    seed: int

    @property
    def scores(self) -> Float[ndarray, "layer"]:
        """The mean over seeds."""
        return self.spread.mean

    @property
    def n(self) -> int:
        """The last place, with nothing hidden."""
        return len(self.scores) - 1

    def effect(self) -> tuple[float, float, float]:
        """Ceiling minus floor, with its interval."""
        worth = self.spread.combine(_differences(self.n, self.n, [0]))
        low, high = worth.interval(self.confidence)[:, 0]
        return float(worth.mean[0]), float(low), float(high)

    def lowest(self, than: int) -> int | None:
        """The place of the lowest score, if that lies below another place's beyond noise.

        As many comparisons as there are layers: each is made so much surer.
        """
        places = [m for m in range(1, self.n) if m != than]
        if not places:
            return None
        lost = self.spread.combine(_differences(self.n, than, places))
        low = lost.interval(1 - (1 - self.confidence) / len(places))[0]
        sure = np.flatnonzero(low > 0)
        return places[int(sure[lost.mean[sure].argmax()])] if len(sure) else None

    def rise(self) -> Rise | None:
        """Where the curve rises from its floor; from its lowest point if the floor is no lower.

        ``None`` if nothing rises beyond noise, or the floor lies above the ceiling.
        """
        _, low, high = self.effect()
        base = 0 if low > 0 else self.lowest(than=self.n)
        if base is None or high < 0:
            return None
        part = replace(self, spread=self.spread[base:])
        place, dip = (int(found) for found in part._crossing.layers(part.scores))
        dips = sorted({*part._falls(), *([dip] if dip else [])})
        smooth = part._crossing.smooth(part.scores)
        interval = part._interval(smooth, place)
        wide = interval is not None and not part.resolves(interval)
        enough = part._enough_items(smooth, place) if wide else None
        upper = part._upper_any()
        return Rise(
            base,
            base + place,
            None if interval is None else (base + interval[0], base + interval[1]),
            None if upper is None else base + upper,
            float(part._crossing.ceiling(part.scores)),
            tuple(base + m for m in dips),
            enough,
        )

    def verdict(self, effect: tuple[float, float, float], rise: Rise | None) -> Verdict:
        """The finding in a word."""
        if rise is None:
            return "context harms" if effect[2] < 0 else "no effect"
        if rise.interval is None or not self.resolves(rise.interval):
            return "not resolved"
        return "never recovered" if rise.place == self.n else "recognised"

    def resolves(self, interval: tuple[int, int]) -> bool:
        """Whether an interval says where: it spans no more than half of the places."""
        return interval[1] - interval[0] <= self.n / 2

    @cached_property
    def _seed_share(self) -> Float[ndarray, ""]:
        """Of seeds in what decides: how far each layer lies above the threshold."""
        return self.spread.combine(self._above[1:-1]).seed_share if self.n > 1 else np.zeros(())

    @cached_property
    def _above(self) -> Float[ndarray, "layer layer"]:
        """The contrasts of each layer with the threshold between floor and ceiling."""
        weights = np.eye(self.n + 1)
        weights[:, 0] -= 1 - self.threshold
        weights[:, -1] -= self.threshold
        return weights

    @cached_property
    def _crossing(self) -> Crossing:
        scattered = self.spread.n_items > 1
        shape = (self.n + 1, self.n + 1)
        noise = self.spread.covariance(self._seed_share) if scattered else np.zeros(shape)
        return Crossing(noise, self.threshold)

    @cached_property
    def _noise(self) -> Float[ndarray, "draw layer"]:
        return self.spread.noise(self.n_draws, self.seed, self._seed_share)

    def _interval(self, smooth: Float[ndarray, "layer"], place: int) -> tuple[int, int] | None:
        if self.spread.n_items < 2:
            return None
        return shortest(self._crossing.layers(smooth + self._noise)[0], place, self.confidence)

    def _upper_any(self) -> int | None:
        """One place above the last that is not above the threshold in a simultaneous band."""
        if self.spread.n_items < 2 or self.n < 2:
            return None if self.spread.n_items < 2 else 1
        weights = self._above[1:-1]
        errors = self._crossing.errors(weights)
        noise = self._noise @ weights.T
        sizes = np.divide(noise, errors, out=np.zeros_like(noise), where=errors > 0).max(axis=1)
        margin = np.quantile(sizes, (1 + self.confidence) / 2) * errors
        above = weights @ self.scores - margin >= -1e-9 * abs(self.scores[-1] - self.scores[0])
        low = np.flatnonzero(~above)
        return int(low[-1]) + 2 if len(low) else 1

    def _falls(self) -> list[int]:
        """Places below the threshold whose score lies below an earlier one's beyond noise."""
        covariance, scores = self._crossing.covariance, self.scores
        pairs = max(self.n * (self.n - 1) // 2, 1)
        own = np.diag(covariance)
        errors = np.sqrt(np.maximum(own[:, None] + own - 2 * covariance, 0))
        margin = NormalDist().inv_cdf(1 - FALSE_DIPS / pairs) * errors
        fallen = scores[:, None] - scores > margin + 1e-9
        earlier = np.tri(self.n + 1, k=-1, dtype=bool).T
        below = self._crossing.above(scores) < 0
        return [m for m in range(1, self.n) if below[m] and (fallen & earlier)[:, m].any()]

    def _enough_items(self, smooth: Float[ndarray, "layer"], place: int) -> int | None:
        """The fewest items, of some multiples of those measured, that would resolve the layer."""
        for times in _TIMES:
            n_items = times * self.spread.n_items
            noise = self.spread.covariance_of(n_items, self.spread.n_seeds, self._seed_share)
            drawn = smooth + draw(noise, self.spread.n_items, self.n_draws, self.seed)
            places = Crossing(noise, self.threshold).layers(drawn)[0]
            if self.resolves(shortest(places, place, self.confidence)):
                return n_items
        return None


def draw(
    covariance: Float[ndarray, "cell cell"], n_items: int, n_draws: int, seed: int
) -> Float[ndarray, "draw cell"]:
    """Noise with a covariance that was estimated from so many items."""
    values, vectors = np.linalg.eigh(covariance)
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((n_draws, len(values)))
    chi = generator.chisquare(n_items - 1, (n_draws, 1)) / (n_items - 1)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return np.asarray(normal @ root.T / np.sqrt(chi))


def _differences(n: int, plus: int, minus: list[int]) -> Float[ndarray, "place layer"]:
    """The contrasts of one place with others."""
    rows = np.zeros((len(minus), n + 1))
    rows[:, plus] = 1
    rows[range(len(minus)), minus] -= 1
    return rows
