"""How scores scatter over items and seeds: the one place where an interval is made.

Items and seeds are crossed: every seed asks the same items. Each item's influence on a score (for a
mean, its value; else from the score without it) splits the scatter of a mean score into three mean
squares: of items over all seeds, of seeds, and of what is left, item by seed. They give a variance
without counting the last one twice, as resampling items and seeds together would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.arguments import refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import MANY, checked, whole
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric, score_totals
from icl_locate.studies.draws import standard
from icl_locate.studies.variance import Variance, ratio

Paired = Literal["items and seeds", "items", "nothing"]
"""What two measurements share."""


@short_repr("mean", "n_seeds", "n_items")
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

    @classmethod
    def of_means(cls, values: Float[ndarray, "*cell seed item"]) -> "Spread":
        """From each item's value, where a score is their mean."""
        scores = values.mean(axis=-1)
        away = values - scores[..., None]
        return cls(scores, away if values.shape[-1] > 1 else np.full_like(away, np.nan))

    def __getitem__(self, cells: Any) -> "Spread":
        """The same of some cells, indexed as an array of cells.

        Raises:
            ResultError: if there are none such.
        """
        shape = self.scores.shape[:-1]
        try:
            places = np.arange(np.prod(shape, dtype=int)).reshape(shape)[cells]
        except Exception:
            refuse("cells", cells, f"what indexes an array of shape {shape}", ResultError)
        scores = self.scores.reshape(-1, self.n_seeds)
        return Spread(scores[places], self.influence.reshape(*scores.shape, -1)[places])

    def __sub__(self, other: "Spread") -> "Spread":
        """Of the differences of two on the same items under the same seeds."""
        return Spread(self.scores - other.scores, self.influence - other.influence)

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

    def combine(self, weights: Float[ndarray, "new cell"] | Sequence[Sequence[float]]) -> "Spread":
        """Weighted sums over the last axis of cells, such as differences between cells.

        Raises:
            ResultError: if they are no rows of numbers, one for each cell.
        """
        n_cells = self.scores.shape[-2] if self.scores.ndim > 1 else 0
        try:
            rows = np.asarray(weights, dtype=np.float64)
        except Exception:  # whatever a strange object raises
            rows = np.zeros(())
        if rows.ndim != 2 or rows.shape[1] != n_cells or not np.isfinite(rows).all():
            refuse("weights", weights, f"rows of {n_cells}, one for each cell", ResultError)
        return Spread(
            np.einsum("nc,...cs->...ns", rows, self.scores),
            np.einsum("nc,...csi->...nsi", rows, self.influence, optimize=True),
        )

    @cached_property
    def by_item(self) -> Float[ndarray, "*cell item"]:
        """Each item's influence, mean over seeds."""
        return np.asarray(self.influence.mean(axis=-2))

    @cached_property
    def left(self) -> Float[ndarray, "*cell seed_item"]:
        """What each item does otherwise under each seed than in the mean over seeds."""
        away = self.influence - self.by_item[..., None, :]
        return np.asarray(away.reshape(*self.mean.shape, -1))

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
        total = (self.left**2).sum(axis=-1)
        return np.asarray(total / ((self.n_items - 1) * (self.n_seeds - 1)))

    @cached_property
    def item_variance(self) -> Variance:
        """Of the mean, from items; with it comes what items do differently under each seed."""
        value = self.items / (self.n_items * self.n_seeds)
        return Variance.of(value, value**2 / max(self.n_items - 1, 1))

    @cached_property
    def seed_variance(self) -> Variance:
        """Of the mean, from seeds, beyond what items do differently under each; 0 of one seed.

        Two seeds have a single difference: all cells of the last axis together count for two more.
        """
        n, s = self.n_items, self.n_seeds
        if s < 2 or n < 2:
            return Variance(np.zeros(self.mean.shape), np.zeros(self.mean.shape))
        seeds, rest, df = self.seeds / (n * s), self.rest / (n * s), s - 1
        if s == 2 and seeds.ndim and seeds.shape[-1] > 1:
            together = ratio(seeds.sum(axis=-1), rest.sum(axis=-1), 1.0)[..., None] * rest
            seeds, df = (seeds + 2 * together) / 3, 3
        doubt = seeds**2 / df + rest**2 / ((n - 1) * (s - 1))
        return Variance.of(np.maximum(seeds - rest, 0), doubt)

    @cached_property
    def variance(self) -> Variance:
        """Of the mean score over items and seeds."""
        return self.item_variance + self.seed_variance

    @cached_property
    def cell_variance(self) -> Variance:
        """Of the mean over the last axis of cells, where these were drawn from more such cells.

        From how they differ beyond what items and seeds explain; 0 of one cell.
        """
        n = self.mean.shape[-1]
        if n < 2:
            return Variance(np.zeros(self.mean.shape[:-1]), np.zeros(self.mean.shape[:-1]))
        apart = self.combine(np.eye(n) - 1 / n)
        cells = (apart.mean**2).sum(axis=-1) / (n - 1)
        more = cells - apart.variance.value.sum(axis=-1) / (n - 1)
        doubt = cells**2 / (n - 1) + apart.variance.doubt.sum(axis=-1) / (n - 1) ** 2
        return Variance.of(np.maximum(more, 0) / n, doubt / n**2)

    @checked(ResultError)
    def interval(self, confidence: float = 0.95) -> Float[ndarray, "bound *cell"]:
        """Of the mean score, Student's: row 0 low, row 1 high; NaN if there is one item.

        Raises:
            ResultError: if the confidence is out of range.
        """
        return self.variance.interval(self.mean, confidence)

    @cached_property
    def seed_share(self) -> Float[ndarray, "*batch"]:
        """How much more seeds scatter than items by seed do, over all cells of the last axis.

        So few seeds tell little of each cell; together the cells tell more.
        """
        if self.n_seeds < 2:
            return np.zeros(self.mean.shape[:-1])
        seeds, rest = (np.atleast_1d(part).sum(axis=-1) for part in (self.seeds, self.rest))
        more = ratio(seeds, rest, 1.0)
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
            rest = self.left @ self.left.swapaxes(-1, -2) / ((n - 1) * (s - 1))
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
        rest = self.left @ self.left.T / ((n - 1) * (s - 1))
        share = self.seed_share if seed_share is None else seed_share
        items = rest + n_seeds / s * (items - rest)
        found = items / (n_items * n_seeds) + share * rest / (n * n_seeds)
        values, vectors = np.linalg.eigh(found)  # a difference of two may leave the cone
        return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)

    @checked(ResultError, n_draws=whole(1, MANY))
    def draws(self, n_draws: int, seed: int) -> Float[ndarray, "draw *cell"]:
        """Mean scores as they may come out another time: t-draws with `covariance`.

        Two spreads of the same items draw the same items with the same ``seed``, as paired as they
        were measured. NaN if there is one item.

        Raises:
            ResultError: if there are no draws to make, or the seed is none.
        """
        return np.asarray(self.mean + self.noise(n_draws, seed))

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
        if n < 2:
            return np.full((n_draws, *self.mean.shape), np.nan)
        items = standard(seed, 0, n_draws, n)
        found = np.tensordot(items, self.by_item, axes=(1, -1)) * np.sqrt(1 / (n * (n - 1)))
        share = self.seed_share if seed_share is None else seed_share
        if np.any(share):
            rest = standard(seed if rest_seed is None else rest_seed, 1, n_draws, s * n)
            scale = np.sqrt(np.asarray(share) / (n * s * (n - 1) * (s - 1)))
            found = found + scale[..., None] * np.tensordot(rest, self.left, axes=(1, -1))
        chi = np.random.default_rng([seed, 2]).chisquare(n - 1, n_draws) / (n - 1)
        return np.asarray(found / np.sqrt(chi).reshape(-1, *[1] * (found.ndim - 1)))


def difference(a: Spread, b: Spread, paired: Paired) -> Variance:
    """The variance of ``a.mean - b.mean``, on what the two share, in the same order.

    Shared are items with the seeds' draws for them, items alone, or nothing. What moves both alike
    goes out of the variance, which holds as well where it moves them otherwise, or not at all.
    """
    if paired == "items and seeds":
        return (a - b).variance
    if paired == "items":
        by_item = (a.by_item - b.by_item)[..., None, :]
        items = Spread((a.mean - b.mean)[..., None], by_item).item_variance
        return items + a.seed_variance + b.seed_variance
    return a.variance + b.variance
