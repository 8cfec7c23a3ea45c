"""What is drawn at random around measured scores, and the ranges that draws lie in."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


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
def standard(seed: int, stream: int, n_draws: int, size: int) -> Float[ndarray, "draw size"]:
    """Standard normal numbers, made once for all curves that draw the same items."""
    found = np.random.default_rng([seed, stream]).standard_normal((n_draws, size))
    found.flags.writeable = False
    return found
