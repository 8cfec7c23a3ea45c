"""What a metric is, and the mean over items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.arguments import check_items, check_text, refuse, show
from icl_locate.checks.signatures import check_fields
from icl_locate.errors import IclLocateError, TaskError
from icl_locate.metrics.readouts import Answers

Statistics = Float[ndarray, "item stat"]
TextScore = Callable[[str, str], float]
_SUMS = np.array([[1.0, 2.0], [-6.0, 3.0]])


@runtime_checkable
class Metric(Protocol):
    """A metric: statistics of each (answer, target), and the score of their sum.

    A metric may say more of itself. Each of these has a default where it says nothing:

    - ``readout``: what is read off a run, and so what its answers are (`GeneratedText`, the
      default; `TargetLogProb` gives numbers, `LabelLogProbs` the best label).
    - ``is_mean``: whether its statistics are those of `mean_statistics`, so that a saved result's
      intervals can be computed without it (False).
    - ``compares_targets``: whether an answer may have to equal its target, so that targets which
      hold a stop string are refused (True).
    - ``runs_programs``: whether it runs what models write, and so must be asked for (False).
    - ``for_task(task, n_queries)``: the metric for a task's queries (itself).
    - ``judged()``: numbers for a result's provenance, under names that begin with "judged" or
      "unjudged", when all is done (none); asked before anything runs, too, so that what no result
      can hold is refused then.
    """

    @property
    def name(self) -> str:
        """The name that results and figures show."""
        ...

    @property
    def signature(self) -> str:
        """The recipe: everything that is needed to compute the same number again."""
        ...

    def statistics(self, answers: Any, targets: Sequence[str]) -> Statistics:
        """One row of statistics an item; rows add up. Answers are what the readout gives."""
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
    is_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: the item's number, and 1 to count it.

        Raises:
            TaskError: if the function fails, or gives no finite number; names the answer.
        """
        return mean_statistics([self._of(a, t) for a, t in pair_texts(answers, targets)])

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The mean."""
        return mean_of(totals)

    def _of(self, answer: str, target: str) -> float:
        try:
            found = self.of(answer, target)
        except IclLocateError:
            raise
        except Exception as error:
            raise TaskError(
                f"the metric {self.name!r} failed on the answer {show(answer)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, (Real, np.bool_)) or not np.isfinite(float(found)):
            raise TaskError(
                f"the metric {self.name!r} gave {show(found)} for the answer {show(answer)}: "
                "expected a finite number"
            )
        return float(found)


def is_mean(metric: Metric) -> bool:
    """Whether a metric is a mean over items, which `find_scorer` knows how to make of any file.

    Raises:
        TaskError: if it says so, but scores sums of `mean_statistics` by anything but their mean.
    """
    if not getattr(metric, "is_mean", False):
        return False
    for totals in _SUMS:
        try:
            score: Any = metric.score(totals)
        except Exception as error:  # whatever another's code raises on sums of two columns
            score = error
        if score != totals[0] / totals[1]:
            raise TaskError(
                f"the metric {metric.name!r} says that it is a mean, but scores a sum of "
                f"{totals[0]:g} over {totals[1]:g} items as {show(score)}: leave is_mean out, or "
                "put the factor into its statistics"
            )
    return True


def pair_texts(answers: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str]]:
    """Each answer with its target.

    Raises:
        TaskError: if one of them is no text, or there are not as many of both.
    """
    given = {"answers": answers, "targets": targets}
    found = {}
    for name, texts in given.items():
        items = check_items(name, texts, "a list of texts", ordered=True, error=TaskError)
        found[name] = [
            check_text(f"{name}[{i}]", text, error=TaskError) for i, text in enumerate(items)
        ]
    if len(found["answers"]) != len(found["targets"]):
        raise TaskError(
            f"there are {len(found['answers'])} answers and {len(found['targets'])} targets: "
            "expected as many of both"
        )
    return list(zip(found["answers"], found["targets"], strict=True))


def mean_statistics(values: Sequence[float]) -> Statistics:
    """Statistics whose score by `MeanMetric` is the mean of the values.

    Raises:
        TaskError: if they are no numbers.
    """
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        column = np.zeros(())
    if column.ndim != 1 or isinstance(values, (str, bytes)):
        refuse("values", values, "a list of numbers", TaskError)
    return np.stack([column, np.ones(len(column))], axis=1)


def mean_of(totals: Float[ndarray, "stat"]) -> float:
    """The mean that sums of `mean_statistics` stand for."""
    total, count = check_totals(totals, 2)
    return float(total / count)


def check_totals(totals: Any, n_columns: int) -> Float[ndarray, "stat"]:
    """Sums of a metric's statistics, if there are as many as it has.

    Raises:
        TaskError: if they are not: sums of another metric would give some number, too.
    """
    if not isinstance(totals, ndarray) or totals.shape != (n_columns,):
        refuse("totals", totals, f"an array of {n_columns} sums of statistics", TaskError)
    return totals


def item_statistics(metric: Metric, answers: Answers, targets: Sequence[str]) -> Statistics:
    """A metric's statistics of some answers, one row each, whoever wrote the metric.

    Raises:
        TaskError: if they are no finite numbers, or not one row for each answer.
    """
    found = metric.statistics(answers, targets)
    try:
        table = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        table = np.zeros(0)
    if table.ndim != 2 or len(table) != len(answers) or not table.shape[1]:
        raise TaskError(
            f"the metric {metric.name!r} gave {show(found)} as statistics of {len(answers)} "
            f"answers: expected an array of numbers, ({len(answers)}, columns)"
        )
    if not np.isfinite(table).all():
        row = int(np.argwhere(~np.isfinite(table))[0, 0])
        raise TaskError(
            f"the metric {metric.name!r} gave {table[row].tolist()} as statistics of the answer "
            f"{show(answers[row])}: expected finite numbers"
        )
    return table


def check_columns(metric: Metric, tables: Sequence[Statistics]) -> None:
    """Refuse statistics of several cells that cannot stand in one table.

    Raises:
        TaskError: if they have different numbers of columns.
    """
    shapes = {table.shape for table in tables}
    if len(shapes) > 1:
        raise TaskError(
            f"the metric {metric.name!r} gave statistics of different shapes, "
            f"{' and '.join(map(str, sorted(shapes)))}: expected as many columns for all answers"
        )


def score_totals(metric: Metric, totals: Float[ndarray, "*cell stat"]) -> Float[ndarray, "*cell"]:
    """The metric of each cell, from its statistics summed over items.

    Raises:
        TaskError: if a score is no number.
    """
    if not isinstance(metric, Metric):
        refuse("metric", metric, "a Metric", TaskError)
    if not hasattr(totals, "reshape") or not np.ndim(totals):
        refuse("totals", totals, "an array of sums of statistics", TaskError)
    if is_mean(metric) and totals.shape[-1] == 2 and (totals[..., 1] > 0).all():
        return np.asarray(totals[..., 0] / totals[..., 1], dtype=np.float64)  # as `mean_of` does
    flat = totals.reshape(-1, totals.shape[-1])
    scores = [metric.score(row) for row in flat]
    for row, score in zip(flat, scores, strict=True):
        if not isinstance(score, (Real, np.bool_)) or np.isnan(float(score)):
            raise TaskError(
                f"the metric {metric.name!r} scored {row.tolist()} (its statistics, summed over "
                f"items) as {show(score)}: expected a number, for resampled items too"
            )
    return np.array(scores, dtype=np.float64).reshape(totals.shape[:-1])
