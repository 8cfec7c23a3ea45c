"""Demonstrations of one task in the prompt, the vector of another at its end: which one wins?"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.engine.choice import Engine
from icl_locate.errors import TaskError
from icl_locate.interventions.states import StateEdit
from icl_locate.metrics import Metric, TextScore
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice, Example
from icl_locate.records.store import Store
from icl_locate.studies.place import Executor
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task
from icl_locate.vectors.contexts import Source
from icl_locate.vectors.override_result import ANSWERS, Override
from icl_locate.vectors.runs import (
    NOTHING,
    Runs,
    Table,
    check_learnt,
    choose_layers,
    scores_of,
    tensors,
    with_examples,
)
from icl_locate.vectors.study import source_of


@checked(
    TaskError, task=anything, other=anything, metric=anything, layers=anything, n_shots=whole(1),
    n_dummies=whole(1),
)  # fmt: skip
def override_study(
    model: Model,
    task: Task | str | Path,
    other: Task | str | Path,
    *,
    n_shots: int = 5,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = (0, 1, 2),
    n_dummies: int = 2,
    metric: str | Metric | TextScore | None = "first_token_accuracy",
    layers: int | Iterable[int] | None = None,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    max_new_tokens: int = 50,
    batch_size: int = 64,
    token_budget: int | None = None,
    engine: Engine | str = "auto",
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> Override:
    """Put a task's vector behind another task's demonstrations, and see which answer wins.

    Queries are those of ``task.test`` that both tasks answer, otherwise from their first token on.
    Other options are as in `task_vectors`.

    Args:
        task: whose demonstrations stand in the prompt.
        other: whose vector replaces the state at the prompt's last token, layer by layer. Its
            answers to the queries come from its examples of the same source.

    Raises:
        TaskError: no query that both answer; a task that the model never gets right; too few
            examples; an option out of range.
        MaskError: layers that the model does not have.
        PromptError, ModelError, NumericalError: as their sources say.
    """
    asked: dict[str, Any] = {
        "metric": metric, "seeds": seeds, "n_shots": n_shots, "choice": choice,
        "prepend_bos": prepend_bos, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    mine, theirs = with_examples("task", task), with_examples("other", other)
    chosen = choose_layers(model, layers)
    own, others = _queries(model, mine, theirs, n_queries)
    settings = [
        Setting.of(replace(mine, test=queries), n_queries=len(queries), **asked)
        for queries in (own, others)
    ]
    source = source_of(theirs, own, n_dummies, asked)
    runs = Runs(model, engine, batch_size, token_budget)
    with runs.showing("override_study", store, executor, progress=progress) as shown:
        return _result(shown, settings, source, chosen)


def _queries(
    model: Model, task: Task, other: Task, n_queries: int | None
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The queries with the task's answers, and with the other's."""
    theirs = {example.source: example for example in (*other.test, *other.train)}
    both = [(query, theirs[query.source]) for query in task.test if query.source in theirs]
    if both:
        bare = replace(task, test=tuple(query for query, _ in both))
        answered = replace(bare, test=tuple(answer for _, answer in both))
        first = [_first_tokens(model, some) for some in (bare, answered)]
        both = [pair for pair, a, b in zip(both, *first, strict=True) if a != b]
    wanted = min(32, len(both)) if n_queries is None else n_queries
    if not 1 <= wanted <= len(both):
        raise TaskError(
            f"the tasks {task.name!r} and {other.name!r} have {len(both)} queries of the same "
            f"source whose answers begin with different tokens: expected {max(1, wanted)}; give "
            "other tasks, or examples of both with the same sources"
        )
    return tuple(query for query, _ in both[:wanted]), tuple(a for _, a in both[:wanted])


def _first_tokens(model: Model, task: Task) -> list[int | None]:
    setting = Setting.of(task, metric="log_prob", n_queries=len(task.test), n_shots=0)
    targets = setting.prompts(model, 0, instruction=False).target_tokens
    return [tokens[0] if tokens else None for tokens in targets]


def _result(
    runs: Runs, settings: Sequence[Setting], source: Source, layers: tuple[int, ...]
) -> Override:
    """Run each answer's prompts, which differ in their targets alone."""
    setting = settings[0]
    shown = [
        [some.prompts(runs.model, seed, instruction=False) for seed in some.seeds]
        for some in settings
    ]
    read = source.prompts(runs.model)
    recipe = {
        **setting.recipe(runs.model, [*(p for some in shown for p in some), *read]),
        "other": source.setting.task.name,
        "contexts": source.describe(),
        "engine": str(runs.engine),
    }
    nothing = [[NOTHING]] * len(setting.seeds)
    pairs = list(zip(settings, shown, strict=True))
    clean = [_tables(runs, *pair, nothing) for pair in pairs]
    check_learnt(setting, clean[0][:, 0])
    vectors = source.vectors(runs.model)
    edits = [[StateEdit("replace", some[layer], layer) for layer in layers] for some in vectors]
    found = [_tables(runs, *pair, edits) for pair in pairs]
    cells = np.stack(found).swapaxes(1, 2)  # [answer, layer, seed, item, stat]
    alone = np.stack(clean)[:, :, 0]
    n_cells = len(ANSWERS) * len(layers)
    tables = {
        "statistics": np.concatenate([cells.reshape(n_cells, *cells.shape[2:]), alone]),
        "scores": scores_of(setting, cells),
        "task_alone": scores_of(setting, alone[0]),
        "other_alone": scores_of(setting, alone[1]),
    }
    return Override(
        layers=layers,
        seeds=setting.seeds,
        metric=setting.metric.name,
        provenance=recipe | setting.outcome(),
        custom_metric=setting.custom_metric,
        **tensors(tables),
    )


def _tables(runs: Runs, setting: Setting, shown: Sequence[Any], acts: Sequence[Any]) -> Table:
    """Statistics ``[seed, run, item, stat]`` of each seed's prompts under its interventions."""
    pairs = zip(shown, acts, strict=True)
    return np.stack([runs.tables(setting, prompts, some) for prompts, some in pairs])
