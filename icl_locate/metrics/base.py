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
_NUMBERS = "biuf"  # kinds of arrays
_SUMS = np.array([[1.0, 2.0], [-6.0, 3.0]])


@runtime_checkable
class Metric(Protocol):
    """A metric: statistics of each (answer, target), and the score of their sum.

    A metric may say more of itself. Each of these has a default where it says nothing:

    - ``readout``: what is read off a run, and so what its answers are (`GeneratedText`, the
      default; `TargetLogProb` and `NextToken` give numbers, `LabelLogProbs` the best label).
    - ``is_mean``: whether its statistics are those of `mean_statistics`, so that a saved result's
      intervals can be computed without it (False).
    - ``scores(totals)``: what ``score`` gives for each row of a table, to 1e-9, all at once; from
      "row stat" to "row" (``score``, row by row).
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
        score = _score_or_error(metric, totals)
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


def check_totals(
    totals: Any, n_columns: int, *, many: bool = False
) -> Float[ndarray, "*cell stat"]:
    """Sums of a metric's statistics, one row or ``many``, if there are as many as it has.

    Raises:
        TaskError: if they are not: sums of another metric would give some number, too.
    """
    expected = f"an array of {n_columns} sums of statistics{' in each row' if many else ''}"
    if not isinstance(totals, ndarray) or totals.dtype.kind not in _NUMBERS:
        refuse("totals", totals, expected, TaskError)
    if (totals.shape[-1:] if many else totals.shape) != (n_columns,):
        refuse("totals", totals, expected, TaskError)
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

    All at once where the metric is a mean or has ``scores``, else row by row.

    Raises:
        TaskError: if a score is no number, or ``scores`` gives another than ``score``.
    """
    if not isinstance(metric, Metric):
        refuse("metric", metric, "a Metric", TaskError)
    if not hasattr(totals, "reshape") or not np.ndim(totals):
        refuse("totals", totals, "an array of sums of statistics", TaskError)
    if is_mean(metric) and totals.shape[-1] == 2 and (totals[..., 1] > 0).all():
        return np.asarray(totals[..., 0] / totals[..., 1], dtype=np.float64)  # as `mean_of` does
    flat = totals.reshape(-1, totals.shape[-1])
    if callable(getattr(metric, "scores", None)):
        scores = _scores_at_once(metric, flat)
    else:
        found = [metric.score(row) for row in flat]
        for row, score in zip(flat, found, strict=True):
            _check_score(metric, row, score)
        scores = np.array(found, dtype=np.float64)
    return scores.reshape(totals.shape[:-1])


def _scores_at_once(metric: Any, rows: Float[ndarray, "row stat"]) -> Float[ndarray, "row"]:
    """What the metric's own ``scores`` gives, if some rows show that it is its ``score``.

    Looked at are the first row, the last and the best: where only one of both has a factor, the
    best shows it.
    """
    said = f"scores() of the metric {metric.name!r}"
    try:
        found = metric.scores(rows)
        scores = np.asarray(found)
    except IclLocateError:
        raise
    except Exception as error:
        raise TaskError(
            f"{said} failed on {len(rows)} rows of sums: {type(error).__name__}: {error}"
        ) from error
    if scores.shape != (len(rows),) or scores.dtype.kind not in _NUMBERS:
        refuse(f"what {said} gave", found, f"{len(rows)} numbers, one for each row", TaskError)
    for i in np.flatnonzero(np.isnan(scores))[:1]:
        _check_score(metric, rows[i], float(scores[i]))
    for i in {0, len(rows) - 1, int(scores.argmax())} if len(rows) else ():
        one, at_once = _score_or_error(metric, rows[i]), float(scores[i])
        if not _is_number(one) or not np.isclose(at_once, float(one), rtol=1e-9, atol=1e-9):
            raise TaskError(
                f"{said} gives {at_once!r} for the sums {rows[i].tolist()}, but score() gives "
                f"{show(one)}: let both give the same, or set scores = None"
            )
    return scores.astype(np.float64)


def _score_or_error(metric: Metric, totals: Float[ndarray, "stat"]) -> Any:
    """A metric's score of one row, or whatever another's code raises instead."""
    try:
        return metric.score(totals)
    except Exception as error:
        return error


def _is_number(score: Any) -> bool:
    return isinstance(score, (Real, np.bool_)) and not np.isnan(float(score))


def _check_score(metric: Metric, row: Float[ndarray, "stat"], score: Any) -> None:
    if not _is_number(score):
        raise TaskError(
            f"the metric {metric.name!r} scored {row.tolist()} (its statistics, summed over "
            f"items) as {show(score)}: expected a number, for some of the items too"
        )
