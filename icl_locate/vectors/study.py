"""Task vectors: what stands at the last token behind demonstrations, put in where there are none.

Hendel et al., "In-Context Learning Creates Task Vectors" (2023).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.engine.choice import Engine
from icl_locate.errors import TaskError
from icl_locate.metrics import Metric, TextScore
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice, Example
from icl_locate.records.store import Store
from icl_locate.studies.place import Executor
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task
from icl_locate.vectors.contexts import Source, choose_dev
from icl_locate.vectors.runs import Runs, choose_controls, choose_layers, with_examples
from icl_locate.vectors.task_result import CONTROLS, TaskVectors
from icl_locate.vectors.transfer import Study


@checked(
    TaskError, task=anything, metric=anything, dev=anything, layers=anything, controls=anything,
    other=anything, n_shots=whole(1), n_dummies=whole(1),
)  # fmt: skip
def task_vectors(
    model: Model,
    task: Task | str | Path,
    *,
    n_shots: int = 5,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = (0, 1, 2),
    n_dummies: int = 2,
    dev: int | Sequence[Example] | None = None,
    metric: str | Metric | TextScore | None = "first_token_accuracy",
    layers: int | Iterable[int] | None = None,
    pairs: bool = False,
    controls: Iterable[str] | None = None,
    other: Task | str | Path | None = None,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    max_new_tokens: int = 50,
    batch_size: int = 64,
    token_budget: int | None = None,
    engine: Engine | str = "auto",
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> TaskVectors:
    """Take a task's vectors from prompts with demonstrations, and put them where there are none.

    A seed's vector of layer ``l`` is the state after block ``l`` at the last token behind
    demonstrations and a dummy query, mean over the dummies. It replaces that state in each query's
    prompt without context. No prompt holds the instruction. The curve is one for `locate_peak`;
    other options are as in `sweep`.

    Args:
        n_queries: the test queries: the first so many of ``task.test``; ``None``: 32, or all.
        seeds: each draws other demonstrations and dummies, none of which is among the queries.
        dev: what the layer is chosen on: Examples, or how many of those behind the test queries,
            then from the end of ``task.train``; ``None``: as many as there are test queries.
        pairs: whether each layer's vector is put in at every layer, too (``pair_scores``).
        controls: of "random" and "shuffled" (`TaskVectors`); ``None``: both, if there is more than
            one demonstration to shuffle.
        other: a task whose vectors are a control, too.

    Raises:
        TaskError: no dev queries, or some that are test queries; too few examples; a task that the
            model never gets right with demonstrations; an option out of range.
        MaskError: layers that the model does not have.
        PromptError, ModelError, NumericalError: as their sources say.
    """
    asked = {
        "metric": metric, "seeds": seeds, "n_shots": n_shots, "choice": choice,
        "prepend_bos": prepend_bos, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    queries = with_examples("task", task), n_queries, dev, other
    chosen = choose_layers(model, layers), _controls(controls, other, n_shots)
    study = _study(*queries, *chosen, n_dummies, asked)
    runs = Runs(model, engine, batch_size, token_budget)
    with runs.showing("task_vectors", store, executor, progress=progress) as shown:
        return study.result(shown, pairs=pairs)


def _study(
    task: Task,
    n_queries: int | None,
    dev: int | Sequence[Example] | None,
    other: Task | str | Path | None,
    layers: tuple[int, ...],
    controls: tuple[str, ...],
    n_dummies: int,
    asked: Mapping[str, Any],
) -> Study:
    test = Setting.of(task, n_queries=n_queries, most_queries=32, **asked)
    chosen = choose_dev(task, test.queries, dev)
    known = (*test.queries, *chosen)
    return Study(
        test=test,
        dev=Setting.of(replace(task, test=chosen), n_queries=len(chosen), **asked),
        source=Source.of(test, known, n_dummies),
        other=None if other is None else source_of(other, known, n_dummies, asked),
        layers=layers,
        controls=controls,
    )


def source_of(
    other: Task | str | Path, known: Sequence[Example], n_dummies: int, asked: Mapping[str, Any]
) -> Source:
    """What another task's vectors are made of; nothing is scored on its own queries.

    Args:
        known: queries that vectors are put into.
    """
    task = with_examples("other", other)
    theirs = Setting.of(task, n_queries=1, **{**asked, "metric": "log_prob"})
    return Source.of(theirs, known, n_dummies)


def _controls(controls: Iterable[str] | None, other: object, n_shots: int) -> tuple[str, ...]:
    """One demonstration cannot be shuffled; another task's vectors run where there is one."""
    known = CONTROLS[:1] if controls is None and n_shots == 1 else CONTROLS[:2]
    return (*choose_controls(controls, known), *(() if other is None else CONTROLS[2:]))
