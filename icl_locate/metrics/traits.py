"""What a metric may say of itself, beside its statistics and score; each has a default."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from icl_locate.checks.arguments import check_text, refuse
from icl_locate.errors import IclLocateError, TaskError
from icl_locate.metrics.base import Metric
from icl_locate.metrics.readouts import readout_of
from icl_locate.prompts.template import Example


@runtime_checkable
class Asked(Protocol):
    """What a metric may know of a task: a `Task`."""

    @property
    def train(self) -> Sequence[Example]:
        """The examples to show."""
        ...

    def queries(self, n_queries: int) -> Sequence[Example]:
        """The first queries."""
        ...


def for_task(metric: Metric, task: Asked, n_queries: int) -> Metric:
    """The metric for a task's first queries.

    Raises:
        TaskError: if what the metric's own ``for_task`` gives is none, or one that no run can be
            read for.
    """
    bind = getattr(metric, "for_task", None)
    bound = metric if bind is None else bind(task, n_queries)
    found = check_metric(bound, f"what for_task of the metric {metric.name!r} gave")
    readout_of(found).require()
    return found


def check_metric(value: Any, name: str) -> Metric:
    """The value, if it is a metric whose name, signature and readout are there.

    Raises:
        TaskError: saying what came under this name.
    """
    if not isinstance(value, Metric):
        refuse(name, value, "a Metric", TaskError)
    for part in ("name", "signature"):
        if not check_text(f"the metric's {part}", getattr(value, part), error=TaskError).strip():
            raise TaskError(f"the metric's {part} is empty: results and figures show it")
    readout_of(value)
    return value


def compares_targets(metric: Metric) -> bool:
    """Whether an answer may have to equal its target."""
    return bool(getattr(metric, "compares_targets", True))


def runs_programs(metric: Metric) -> bool:
    """Whether a metric runs what models write."""
    return bool(getattr(metric, "runs_programs", False))


def judged(metric: Metric) -> dict[str, Any]:
    """What a result's provenance says of what its metric did, if it says anything.

    Raises:
        TaskError: if the metric's own ``judged`` fails, or gives what no result can hold.
    """
    try:
        found: Any = getattr(metric, "judged", dict)()
    except IclLocateError:
        raise
    except Exception as error:
        raise TaskError(
            f"judged() of the metric {metric.name!r} failed: {type(error).__name__}: {error}; "
            "it is asked before anything runs, too"
        ) from error
    said = f"what judged() of the metric {metric.name!r} gave"
    if not isinstance(found, Mapping) or not all(_is_free(name) for name in found):
        expected = "a mapping whose names begin with 'judged' or 'unjudged', to what JSON can hold"
        refuse(said, found, expected, TaskError)
    for name, value in found.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            refuse(f"{name!r} in {said}", value, "what JSON can hold, such as a number", TaskError)
    return dict(found)


def _is_free(name: object) -> bool:
    """Whether no recipe says anything else under a name."""
    return isinstance(name, str) and name.startswith(("judged", "unjudged"))
