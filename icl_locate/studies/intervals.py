"""How scores scatter over items and seeds: the one place where an interval is made.

Items and seeds are crossed: every seed asks the same items. Each item's influence on a score (for a
mean, its value; else from the score without it) splits the scatter of a mean score into three mean
squares: of items over all seeds, of seeds, and of what is left, item by seed. They give a variance
without counting the last one twice, as resampling items and seeds together would.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy.stats import t as student

from icl_locate.metrics import Metric, score_totals


@dataclass(frozen=True)
class Variance:
    """Variances of mean scores, and how well they are known.

    Attributes:
        value: one for each cell; NaN if there is one item.
        doubt: the sum of its parts' squares, each by the degrees of freedom that it has.
    """

    value: Float[ndarray, "*cell"]
    doubt: Float[ndarray, "*cell"]

    def __add__(self, other: "Variance") -> "Variance":
        """Of a sum or a difference of two that share nothing."""
        return Variance(self.value + other.value, self.doubt + other.doubt)

    @property
    def df(self) -> Float[ndarray, "*cell"]:
        """Degrees of freedom by Satterthwaite's approximation, 1 at least."""
        known = _ratio(self.value**2, self.doubt, np.inf)
        return np.asarray(np.maximum(known, 1))

    def interval(
        self, mean: Float[ndarray, "*cell"], confidence: float
    ) -> Float[ndarray, "bound *cell"]:
        """Student's interval around means: row 0 low, row 1 high."""
        half = student.ppf((1 + confidence) / 2, self.df) * np.sqrt(self.value)
        return np.stack([mean - half, mean + half])


@dataclass(frozen=True)
class Spread:
    """Scores by seed, and each item's influence on them.

    Attributes:
        scores: over all items.
        influence: what an item adds, per item: ``I - 1`` times what the score loses without it,
            centred over items (the jackknife; for a mean, the item's value minus the mean). NaN if
            there is one item.
    """

    scores: Float[ndarray, "*cell seed"]
    influence: Float[ndarray, "*cell seed item"]

    @classmethod
    def of(cls, metric: Metric, statistics: Float[ndarray, "*cell seed item stat"]) -> "Spread":
        """From each item's sufficient statistics of a metric, which add up over items."""
        totals = statistics.sum(axis=-2)
        scores = score_totals(metric, totals)
        n_items = statistics.shape[-2]
        if n_items < 2:
            return cls(scores, np.full(statistics.shape[:-1], np.nan))
        without = score_totals(metric, totals[..., None, :] - statistics)
        lost = (n_items - 1) * (scores[..., None] - without)
        return cls(scores, lost - lost.mean(axis=-1, keepdims=True))

    def __getitem__(self, cells: Any) -> "Spread":
        """The same of some cells, indexed as an array of cells."""
        return Spread(self.scores[cells], self.influence[cells])

    @property
    def n_seeds(self) -> int:
        """Seeds."""
        return int(self.influence.shape[-2])

    @property
    def n_items(self) -> int:
        """Items."""
        return int(self.influence.shape[-1])

    @cached_property
    def mean(self) -> Float[ndarray, "*cell"]:
        """The mean score over seeds."""
        return np.asarray(self.scores.mean(axis=-1))

    def combine(self, weights: Float[ndarray, "new cell"]) -> "Spread":
        """Weighted sums over the last axis of cells, such as differences between cells."""
        return Spread(
            np.einsum("nc,...cs->...ns", weights, self.scores),
            np.einsum("nc,...csi->...nsi", weights, self.influence, optimize=True),
        )

    @cached_property
    def by_item(self) -> Float[ndarray, "*cell item"]:
        """Each item's influence, mean over seeds."""
        return np.asarray(self.influence.mean(axis=-2))

    @cached_property
    def items(self) -> Float[ndarray, "*cell"]:
        """The mean square of items."""
        total = self.n_seeds * (self.by_item**2).sum(axis=-1)
        return np.asarray(total / max(self.n_items - 1, 1))

    @cached_property
    def seeds(self) -> Float[ndarray, "*cell"]:
        """The mean square of seeds; of two seeds or more."""
        away = self.scores - self.scores.mean(axis=-1, keepdims=True)
        return np.asarray(self.n_items * (away**2).sum(axis=-1) / (self.n_seeds - 1))

    @cached_property
    def rest(self) -> Float[ndarray, "*cell"]:
        """The mean square of what is left, item by seed; of two seeds or more."""
        left = self.influence - self.by_item[..., None, :]
        return np.asarray((left**2).sum(axis=(-2, -1)) / ((self.n_items - 1) * (self.n_seeds - 1)))

    @cached_property
    def item_variance(self) -> Variance:
        """Of the mean, from items; with it comes what items do differently under each seed."""
        value = self.items / (self.n_items * self.n_seeds)
        return Variance(value, value**2 / max(self.n_items - 1, 1))

    @cached_property
    def seed_variance(self) -> Variance:
        """Of the mean, from seeds, beyond what items do differently under each; 0 of one seed."""
        n, s = self.n_items, self.n_seeds
        if s < 2 or n < 2:
            return Variance(np.zeros(self.mean.shape), np.zeros(self.mean.shape))
        seeds, rest = self.seeds / (n * s), self.rest / (n * s)
        doubt = seeds**2 / (s - 1) + rest**2 / ((n - 1) * (s - 1))
        return Variance(np.maximum(seeds - rest, 0), doubt)

    @cached_property
    def variance(self) -> Variance:
        """Of the mean score over items and seeds."""
        return self.item_variance + self.seed_variance

    def interval(self, confidence: float) -> Float[ndarray, "bound *cell"]:
        """Of the mean score: row 0 low, row 1 high; NaN if there is one item."""
        return self.variance.interval(self.mean, confidence)

    @cached_property
    def seed_share(self) -> Float[ndarray, "*batch"]:
        """How much more seeds scatter than items by seed do, over all cells of the last axis.

        So few seeds tell little of each cell; together the cells tell more.
        """
        if self.n_seeds < 2:
            return np.zeros(self.mean.shape[:-1])
        more = _ratio(self.seeds.sum(axis=-1), self.rest.sum(axis=-1), 1.0)
        return np.asarray(np.maximum(more - 1, 0))

    def covariance(
        self, seed_share: Float[ndarray, "*batch"] | None = None
    ) -> Float[ndarray, "*batch cell cell"]:
        """Of the mean scores, between the cells of the last axis.

        Args:
            seed_share: that of other cells made of these, whose scatter matters.
        """
        n, s = self.n_items, self.n_seeds
        found = s / (n - 1) * self.by_item @ self.by_item.swapaxes(-1, -2)
        if s > 1:
            share = self.seed_share if seed_share is None else seed_share
            left = (self.influence - self.by_item[..., None, :]).reshape(*self.mean.shape, -1)
            rest = left @ left.swapaxes(-1, -2) / ((n - 1) * (s - 1))
            found = found + np.asarray(share)[..., None, None] * rest
        return np.asarray(found / (n * s))

    def covariance_of(
        self, n_items: int, n_seeds: int, seed_share: Float[ndarray, ""] | None = None
    ) -> Float[ndarray, "cell cell"]:
        """The covariance that other numbers of items and seeds would give, of one batch.

        With one seed measured nothing is known of seeds: ``n_seeds`` then changes nothing.
        """
        n, s = self.n_items, self.n_seeds
        items = s / (n - 1) * self.by_item @ self.by_item.T
        if s < 2:
            return np.asarray(items / n_items)
        left = (self.influence - self.by_item[..., None, :]).reshape(*self.mean.shape, -1)
        rest = left @ left.T / ((n - 1) * (s - 1))
        share = self.seed_share if seed_share is None else seed_share
        items = rest + n_seeds / s * (items - rest)
        found = items / (n_items * n_seeds) + share * rest / (n * n_seeds)
        values, vectors = np.linalg.eigh(found)  # a difference of two may leave the cone
        return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)

    def draws(
        self, n_draws: int, seed: int, seed_share: Float[ndarray, "*batch"] | None = None
    ) -> Float[ndarray, "draw *cell"]:
        """Mean scores as they may come out another time: t-draws with `covariance`.

        Two spreads of the same items draw the same items with the same ``seed``, as paired as they
        were measured.
        """
        return self.mean + self.noise(n_draws, seed, seed_share)

    def noise(
        self,
        n_draws: int,
        seed: int,
        seed_share: Float[ndarray, "*batch"] | None = None,
        *,
        rest_seed: int | None = None,
    ) -> Float[ndarray, "draw *cell"]:
        """What `draws` adds to the means.

        Args:
            rest_seed: of the draws of items by seed, if other than ``seed``.
        """
        n, s = self.n_items, self.n_seeds
        items = _standard(seed, 0, n_draws, n)
        found = np.tensordot(items, self.by_item, axes=(1, -1)) * np.sqrt(1 / (n * (n - 1)))
        share = self.seed_share if seed_share is None else seed_share
        if np.any(share):
            rest = _standard(seed if rest_seed is None else rest_seed, 1, n_draws, s * n)
            left = (self.influence - self.by_item[..., None, :]).reshape(*self.mean.shape, -1)
            scale = np.sqrt(np.asarray(share) / (n * s * (n - 1) * (s - 1)))
            found = found + scale[..., None] * np.tensordot(rest, left, axes=(1, -1))
        chi = np.random.default_rng([seed, 2]).chisquare(n - 1, n_draws) / (n - 1)
        return np.asarray(found / np.sqrt(chi).reshape(-1, *[1] * (found.ndim - 1)))


def percentiles(
    samples: Float[ndarray, "draw *cell"], confidence: float
) -> Float[ndarray, "bound *cell"]:
    """The percentiles of draws: row 0 low, row 1 high."""
    found: ndarray = np.quantile(samples, ((1 - confidence) / 2, (1 + confidence) / 2), axis=0)
    return found


def shortest(places: Int[ndarray, "draw"], holds: int, confidence: float) -> tuple[int, int]:
    """The shortest range of whole numbers that has a share of the draws in it, and ``holds``.

    Where draws pile up at one end, as layers do, percentiles cut nothing off that end and so give
    a longer range of the same share. Of ranges as short, the one with most draws; then the lowest.
    """
    least, most = min(int(places.min()), holds), max(int(places.max()), holds)
    counts = np.bincount(places - least, minlength=most - least + 1)
    below = np.concatenate([[0], counts.cumsum()])
    wanted = confidence * len(places) - 1e-9
    ranges = [
        (high - low, below[low] - below[high + 1], low)
        for low in range(holds - least + 1)
        for high in [max(int(np.searchsorted(below, below[low] + wanted)) - 1, holds - least)]
        if high <= most - least
    ]
    width, _, low = min(ranges)
    return low + least, low + width + least


def draw(
    covariance: Float[ndarray, "cell cell"], n_items: int, n_draws: int, seed: int
) -> Float[ndarray, "draw cell"]:
    """Noise with a covariance that so many items tell."""
    values, vectors = np.linalg.eigh(covariance)
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((n_draws, len(values)))
    chi = generator.chisquare(n_items - 1, (n_draws, 1)) / (n_items - 1)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return np.asarray(normal @ root.T / np.sqrt(chi))


@lru_cache(maxsize=4)
def _standard(seed: int, stream: int, n_draws: int, size: int) -> Float[ndarray, "draw size"]:
    """Standard normal numbers, made once for all curves that draw the same items."""
    found = np.random.default_rng([seed, stream]).standard_normal((n_draws, size))
    found.flags.writeable = False
    return found


def _ratio(a: ArrayLike, b: ArrayLike, otherwise: float) -> ndarray:
    """Their ratio, or something else where nothing scatters."""
    divisor = np.asarray(b)
    scatters = divisor > 0
    return np.asarray(np.where(scatters, a / np.where(scatters, divisor, 1), otherwise))
