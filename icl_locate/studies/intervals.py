"""A paired bootstrap over items and seeds."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from icl_locate.metrics import Metric, score_totals


def bootstrap_scores(
    metric: Metric,
    statistics: Float[ndarray, "*cell seed item stat"],
    n_resamples: int,
    seed: int,
) -> Float[ndarray, "resample *cell"]:
    """Scores of resampled items and seeds, averaged over the resampled seeds.

    Every resample draws items and seeds with replacement, the same ones for all cells, and scores
    the statistics of what it drew anew.
    """
    generator = np.random.default_rng(seed)
    *cells, n_seeds, n_items, n_statistics = statistics.shape
    item_weights = _draw_counts(generator, n_resamples, n_items)
    seed_weights = _draw_counts(generator, n_resamples, n_seeds) / n_seeds
    by_item = np.moveaxis(statistics, -2, 0).reshape(n_items, -1)
    totals = (item_weights @ by_item).reshape(n_resamples, *cells, n_seeds, n_statistics)
    scores: ndarray = np.einsum("r...s,rs->r...", score_totals(metric, totals), seed_weights)
    return scores


def percentile_interval(
    samples: Float[ndarray, "resample *cell"], confidence: float, n_items: int
) -> Float[ndarray, "bound *cell"]:
    """The percentiles of resamples: row 0 low, row 1 high; NaN if one item left nothing to draw."""
    found: ndarray = np.quantile(samples, tails_of(confidence), axis=0)
    return found if n_items > 1 else np.full_like(found, np.nan)


def tails_of(confidence: float) -> tuple[float, float]:
    """The two percentiles, as shares, between which an interval of a confidence lies."""
    return (1 - confidence) / 2, (1 + confidence) / 2


def _draw_counts(
    generator: np.random.Generator, n_resamples: int, n: int
) -> Float[ndarray, "resample drawn"]:
    """How often each of ``n`` things is drawn, in draws of ``n`` with replacement."""
    return generator.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)
