"""What a metric is, and the mean over items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Statistics = Float[ndarray, "item stat"]
TextScore = Callable[[str, str], float]


@runtime_checkable
class Metric(Protocol):
    """A metric: statistics of each (answer, target), and the score of their sum."""

    @property
    def name(self) -> str:
        """The name that results and figures show."""
        ...

    @property
    def signature(self) -> str:
        """The recipe: everything that is needed to compute the same number again."""
        ...

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """One row of statistics an item; rows add up."""
        ...

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The score of statistics summed over items."""
        ...


@dataclass(frozen=True)
class MeanMetric:
    """The mean over items of one number each."""

    name: str
    signature: str
    of: TextScore
    n_columns: ClassVar[int] = 2

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: the item's number, and 1 to count it."""
        return mean_statistics([self.of(a, t) for a, t in zip(answers, targets, strict=True)])

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The mean."""
        return float(totals[0] / totals[1])


def mean_statistics(values: Sequence[float]) -> Statistics:
    """Statistics whose score by `MeanMetric` is the mean of the values."""
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)


def score_totals(metric: Metric, totals: Float[ndarray, "*cell stat"]) -> Float[ndarray, "*cell"]:
    """The metric of each cell, from its statistics summed over items."""
    flat = totals.reshape(-1, totals.shape[-1])
    return np.array([metric.score(row) for row in flat]).reshape(totals.shape[:-1])
