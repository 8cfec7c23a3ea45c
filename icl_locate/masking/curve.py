"""One condition's curve with its scatter: is there an effect, where does it rise, how surely."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.stats import t as student

from icl_locate.checks.reprs import short_repr
from icl_locate.masking.crossing import FALSE_DIPS, Crossing, above_threshold
from icl_locate.studies.draws import draw, shortest
from icl_locate.studies.intervals import Spread

Verdict = Literal["recognised", "never recovered", "no effect", "context harms", "not resolved"]
_TIMES = (1, 2, 4, 8, 16, 32, 64)
"""How many times the items are tried when too few were measured."""
_SEEDS = (5, 10, 20)
"""Numbers of seeds that are tried where more items alone would not do."""
_DOUBT = 0.001
"""How often a curve of noise may be said to have a lowest point that is none."""
_ROUNDING = 1e-6
"""An effect below this share of the scores is what float32 leaves of equal ones."""


@dataclass(frozen=True)
class Rise:
    """Where a curve rises for good, in start layers; what `Location` says of each.

    Attributes:
        base: the layer that recovery is measured from.
        level: the plateau's mean score.
        enough: about how many items and seeds would resolve the layer; ``None`` if it is resolved,
            or if no numbers that were tried would.
    """

    base: int
    layer: int
    after: int
    interval: tuple[int, int] | None
    upper_any: int | None
    level: float
    dips: tuple[int, ...]
    enough: tuple[int, int] | None


@short_repr("scores", "layers", "threshold", "confidence")
@dataclass(frozen=True)
class Curve:
    """A curve over start layers, and what counts as recovered.

    Attributes:
        spread: the scores, with how they scatter; its cells are the start layers.
        layers: the start layers that ran; the last hides nothing.
        threshold, confidence: as in `locate`.
        n_draws, seed: of the curves that are drawn.
    """

    spread: Spread
    layers: tuple[int, ...]
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
        """The place of the last layer, with nothing hidden."""
        return len(self.layers) - 1

    @cached_property
    def crossing(self) -> Crossing:
        """The estimator, for this curve's noise; without noise for a single item."""
        if self.spread.n_items < 2:
            return Crossing(np.zeros((self.n + 1, self.n + 1)), self.threshold)
        return Crossing(self.spread.covariance(self.seed_share), self.threshold)

    @cached_property
    def seed_share(self) -> Float[ndarray, ""]:
        """Of seeds in what decides: how far each layer lies above the threshold."""
        if self.n < 2:
            return np.zeros(())
        return self.spread.combine(above_threshold(self.n, self.threshold)).seed_share

    @cached_property
    def worth(self) -> Spread:
        """Ceiling minus each other layer's score, floor first."""
        return self.spread.combine(_differences(self.n, self.n, list(range(self.n))))

    def effect(self) -> tuple[float, float, float]:
        """Ceiling minus floor, with its interval; NaN for a single item."""
        low, high = self.worth.interval(self.confidence)[:, 0]
        return float(self.worth.mean[0]), float(low), float(high)

    def lowest(self, than: int) -> int | None:
        """The place of the lowest score, if it lies below another place's beyond doubt.

        Seeds scatter as they do over all layers together: of single layers few seeds tell little.
        """
        places = [m for m in range(1, self.n) if m != than]
        if not places or self.spread.n_items < 2:
            return None
        weights = _differences(self.n, than, places)
        lost = weights @ self.scores
        sure = student.ppf(1 - _DOUBT / len(places), self.spread.n_items - 1)
        margin = sure * self.crossing.errors(weights) + self._rounding
        return places[int(lost.argmax())] if (lost > margin).any() else None

    def rise(self) -> Rise | None:
        """Where the curve rises for good; ``None`` if nothing rises beyond noise, or it falls."""
        base = self._base()
        if base is None:
            return None
        part = replace(self, spread=self.spread[base:], layers=self.layers[base:])
        place, dip = (int(found) for found in part.crossing.layers(part.scores))
        interval, upper, enough = None, None, None
        if self.spread.n_items > 1:
            *ends, end = part.crossing.interval(part.scores, part.noise, self.confidence)
            interval, upper = part.between(*ends), part.layers[end]
            if not part.resolves(interval):
                enough = part._enough(place)
        return Rise(
            base=self.layers[base],
            layer=part.layers[place],
            after=part.layers[place - 1],
            interval=interval,
            upper_any=upper,
            level=float(part.crossing.ceiling(part.scores)),
            dips=tuple(part.layers[m] for m in sorted({*part._falls(), dip} - {0})),
            enough=enough,
        )

    def again(self, rise: Rise, rest_seed: int | None = None) -> Int[ndarray, "bound draw"]:
        """From which layer to which curves drawn around it may rise; in the last column, it itself.

        None rises above the upper end of its interval. Another curve of the same items is drawn as
        paired as the two were measured. Of two items or more.

        Args:
            rest_seed: of the draws of items by seed, if the other's seeds are others.
        """
        base = self.layers.index(rise.base)
        part = replace(self, spread=self.spread[base:], layers=self.layers[base:])
        most = max(rise.layer, rise.upper_any or rise.layer)
        drawn = np.minimum(part._drawn(rest_seed), part.layers.index(most))
        places, layers = np.append(drawn, part.layers.index(rise.layer)), np.array(part.layers)
        return np.stack([layers[places - 1] + 1, layers[places]])

    def verdict(self, effect: tuple[float, float, float], rise: Rise | None) -> Verdict:
        """The finding in a word."""
        if rise is None:
            return "context harms" if effect[2] < -self._rounding else "no effect"
        if rise.interval is None or not self.resolves(rise.interval):
            return "not resolved"
        return "never recovered" if rise.after == self.layers[-1] - 1 else "recognised"

    def resolves(self, interval: tuple[int, int]) -> bool:
        """Whether an interval says where: it spans no more than half of the model's layers."""
        return interval[1] - interval[0] <= self.layers[-1] / 2

    @cached_property
    def noise(self) -> Float[ndarray, "draw layer"]:
        """What measuring again may add to the curve."""
        return self.spread.noise(self.n_draws, self.seed, self.seed_share)

    def _drawn(self, rest_seed: int | None = None) -> Int[ndarray, "draw"]:
        """Places at which curves drawn around the smoothed one rise for good."""
        noise = self.noise
        if rest_seed not in (None, self.seed):
            noise = self.spread.noise(self.n_draws, self.seed, self.seed_share, rest_seed=rest_seed)
        return self.crossing.drawn(self.scores, noise)

    @property
    def _rounding(self) -> float:
        return _ROUNDING * float(np.abs(self.scores).max())

    def _base(self) -> int | None:
        """The place that recovery is measured from, if there is anything to recover.

        The floor; or the lowest point, where the floor lies nearer to the ceiling than to it.
        """
        effect, low, high = self.effect()
        if self.spread.n_items < 2:
            low = high = effect
        if high < -self._rounding:
            return None
        lowest = self.lowest(than=self.n)
        if lowest is not None and effect < (self.scores[-1] - self.scores[lowest]) / 2:
            return lowest
        return 0 if low > self._rounding else None

    def between(self, low: int, high: int) -> tuple[int, int]:
        """The layers between two places: from the first that the start layer before left open."""
        return self.layers[low - 1] + 1, self.layers[high]

    def _falls(self) -> list[int]:
        """Places below the threshold whose score lies below an earlier one's beyond noise."""
        covariance, scores = self.crossing.covariance, self.scores
        own, pairs = np.diag(covariance), max(self.n * (self.n - 1) // 2, 1)
        errors = np.sqrt(np.maximum(own[:, None] + own - 2 * covariance, 0))
        margin = student.ppf(1 - FALSE_DIPS / pairs, max(self.spread.n_items - 1, 1)) * errors
        earlier = np.triu(np.ones_like(covariance, dtype=bool), k=1)
        fallen = (scores[:, None] - scores > margin + self._rounding) & earlier
        below = self.crossing.above(scores) < 0
        return [m for m in range(1, self.n) if below[m] and fallen[:, m].any()]

    def settled(self, place: int) -> Float[ndarray, "layer"]:
        """The curve as it seems to be: smooth up to a place, and level from there on."""
        above = np.arange(self.n + 1) >= place
        level = self.crossing.ceiling(self.scores)
        return np.where(above, level, self.crossing.smooth(self.scores))

    def _enough(self, place: int) -> tuple[int, int] | None:
        """The fewest items that would resolve the layer, with the fewest seeds of those tried.

        Seeds come second: of their scatter a few seeds tell little, and one nothing.
        """
        measured = self.spread.n_seeds
        more = [n_seeds for n_seeds in _SEEDS if n_seeds > measured > 1]
        for n_seeds in (measured, *more):
            if self._would_do(place, _TIMES[-1], n_seeds):
                tried = _TIMES if n_seeds > measured else _TIMES[1:]
                do = (times for times in tried if self._would_do(place, times, n_seeds))
                return next(do) * self.spread.n_items, n_seeds
        return None

    def _would_do(self, place: int, times: int, n_seeds: int) -> bool:
        """Whether so many times the items, with so many seeds, would resolve the layer."""
        n_items = times * self.spread.n_items
        noise = self.spread.covariance_of(n_items, n_seeds, self.seed_share)
        again = self.settled(place) + draw(noise, n_items, self.n_draws, self.seed)
        places = Crossing(noise, self.threshold).layers(again)[0]
        return self.resolves(self.between(*shortest(places, place, self.confidence)))


def _differences(n: int, plus: int, minus: list[int]) -> Float[ndarray, "place layer"]:
    """The contrasts of one place with others."""
    rows = np.zeros((len(minus), n + 1))
    rows[:, plus] = 1
    rows[range(len(minus)), minus] -= 1
    return rows
