"""What an experiment is asked for: its task, shots, queries and metric, checked in one place."""

from collections.abc import Iterable

from icl_locate.checks.arguments import check_counts
from icl_locate.errors import TaskError
from icl_locate.metrics import LabelAccuracy, Metric, PassRate, TextScore, get_metric
from icl_locate.tasks.task import Task

DEFAULT_QUERIES = 64


def choose_n_queries(task: Task, n_queries: int | None) -> int:
    """How many of a task's queries are answered: as many as asked for, else 64 or all there are."""
    return min(DEFAULT_QUERIES, len(task.test)) if n_queries is None else n_queries


def choose_metric(task: Task, metric: str | Metric | TextScore | None, n_queries: int) -> Metric:
    """The metric that a task's first queries are scored with.

    Raises:
        TaskError: if it is unknown, or runs programs without being asked for by name.
    """
    if metric is None and task.metric == PassRate().name:
        raise TaskError(
            f"the task {task.name!r} is scored by running the programs that the model writes: say "
            "metric='pass@1' if you want that, or choose another metric"
        )
    chosen = get_metric(task.metric if metric is None else metric)
    _ = chosen.signature  # a tokeniser that is not to be had is refused before anything runs
    if isinstance(chosen, PassRate) and not chosen.checks:
        return chosen.bound_to(task.queries(n_queries))
    if isinstance(chosen, LabelAccuracy) and not chosen.labels:
        return chosen.bound_to(task.train)
    return chosen


def check_shots(shots: int | Iterable[int]) -> tuple[int, ...]:
    """The numbers of shots.

    Raises:
        TaskError: if there are none, or one stands there twice.
    """
    return check_counts("shots", shots, least=0, error=TaskError)
