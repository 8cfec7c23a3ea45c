"""How many items and seeds to ask: what sweeps of other sizes would find, from one that ran."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icl_locate.checks.arguments import ErrorKind, check_counts
from icl_locate.checks.signatures import MANY, checked, number
from icl_locate.errors import ResultError
from icl_locate.masking.crossing import Crossing
from icl_locate.masking.curve import Curve
from icl_locate.masking.location import locate
from icl_locate.masking.result import SweepResult
from icl_locate.studies.draws import draw

_SEEDS = (1, 3, 5)
_N_SWEEPS = 40
"""Sweeps that are simulated of each size."""


@dataclass(frozen=True)
class Expected:
    """What sweeps of some size would find of one condition.

    Attributes:
        condition: the condition.
        n_items, n_seeds: the size.
        width: layers from one end of the interval to the other, on average; 0 is a single layer.
        resolved: the share of sweeps whose interval spans no more than half of the layers.
    """

    condition: str
    n_items: int
    n_seeds: int
    width: float
    resolved: float

    def __str__(self) -> str:
        seeds = f"{self.n_seeds} seed{'s' if self.n_seeds > 1 else ''}"
        return (
            f"{self.condition}, {self.n_items} items, {seeds}: interval about {self.width:.1f} "
            f"layers wide, resolved in {self.resolved:.0%} of sweeps"
        )


def _check_sizes(name: str, value: Any, error: ErrorKind) -> tuple[int, ...]:
    return check_counts(name, value, least=2, most=MANY, error=error)


def _check_seeds(name: str, value: Any, error: ErrorKind) -> tuple[int, ...] | None:
    return None if value is None else check_counts(name, value, most=MANY, error=error)


@checked(
    ResultError,
    threshold=number(above=0, most=1),
    n_queries=_check_sizes,
    n_seeds=_check_seeds,
)
def plan(
    result: SweepResult,
    *,
    n_queries: Sequence[int] | int = (32, 64, 128, 256),
    n_seeds: Sequence[int] | int | None = None,
    threshold: float = 0.9,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> list[Expected]:
    """Expect how wide intervals will be with other numbers of items and seeds, from a pilot.

    Sweeps of each size are simulated around the pilot's smoothed curve with the noise that they
    would have, and each is located with an interval of its own. Near the pilot's size widths come
    out right to a quarter or so. Those of much larger sweeps are rougher, mostly too large: how the
    curve runs, and how seeds differ, is known only as well as the pilot tells.

    With one seed an interval tells how other items would do, not how other seeds would. It looks
    narrow, and misses the layer the more often the more seeds differ.

    Args:
        result: the pilot. Conditions in which nothing rises beyond noise are left out.
        n_queries: numbers of items.
        n_seeds: numbers of seeds: by default 1, 3 and 5, or 1 if the pilot had one.
        threshold, confidence: as in `locate`.
        n_resamples: curves that are drawn for each interval.
        seed: of their own generator.

    Returns:
        One for each condition, number of seeds, and number of items, in this order.

    Raises:
        ResultError: if an argument is out of range; if the pilot has a single item, or a single
            seed where ``n_seeds`` asks for more; and as `locate`.
    """
    if result.n_items < 2:
        raise ResultError(
            "result has a single item, which does not tell how items differ: take a pilot of more"
        )
    located = locate(
        result, threshold=threshold, confidence=confidence, n_resamples=n_resamples, seed=seed
    )
    sizes = [(n, s) for s in _seeds_of(result, n_seeds) for n in np.atleast_1d(n_queries).tolist()]
    spread, how = result.spread(), (threshold, confidence, n_resamples, seed)
    expected = []
    for i, found in enumerate(located):
        if found.layer is not None:
            base = found.layers.index(found.base)
            curve = Curve(spread[i, base:], found.layers[base:], *how)
            place = curve.layers.index(found.layer)
            expected += [
                Expected(found.condition, n, s, *_expect(curve, place, n, s)) for n, s in sizes
            ]
    return expected


def _seeds_of(result: SweepResult, n_seeds: Sequence[int] | int | None) -> list[int]:
    """The numbers of seeds that are asked for, if the pilot can tell of them."""
    if n_seeds is None:
        return list(_SEEDS if len(result.seeds) > 1 else _SEEDS[:1])
    asked: list[int] = np.atleast_1d(n_seeds).tolist()
    if len(result.seeds) < 2 and max(asked) > 1:
        raise ResultError(
            f"n_seeds is {n_seeds}, but the pilot had one seed, which does not tell how seeds "
            "differ: ask for 1, or take a pilot of at least two seeds"
        )
    return asked


def _expect(curve: Curve, place: int, n_items: int, n_seeds: int) -> tuple[float, float]:
    """The mean width over simulated sweeps, and the share of resolved ones.

    Args:
        curve: the pilot's, from where recovery is measured on.
        place: where it is recovered.
    """
    n_draws = _N_SWEEPS + curve.n_draws
    noise = curve.spread.covariance_of(n_items, n_seeds, curve.seed_share)
    sweeps = curve.settled(place) + draw(noise, n_items, n_draws, curve.seed)[:_N_SWEEPS]
    if n_seeds == 1:  # all that such a sweep knows of its noise
        noise = curve.spread.covariance_of(n_items, 1, np.zeros(()))
    crossing = Crossing(noise, curve.threshold)
    again = draw(noise, n_items, n_draws, curve.seed)[_N_SWEEPS:]
    found = [crossing.interval(sweep, again, curve.confidence) for sweep in sweeps]
    ends = [curve.between(low, high) for low, high, _ in found]
    widths = [high - low for low, high in ends]
    return float(np.mean(widths)), float(np.mean([curve.resolves(each) for each in ends]))
