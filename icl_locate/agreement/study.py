"""Several methods on one model and task, on the same queries, examples and metric."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from icl_locate.agreement.curve import MethodCurve
from icl_locate.agreement.method import Asked, Measurement, Method
from icl_locate.agreement.registry import METHODS, choose_methods
from icl_locate.agreement.result import Agreement
from icl_locate.checks.arguments import check_choice, refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.choice import ENGINES, Engine
from icl_locate.errors import IclLocateError, MaskError, ModelError, PromptError, TaskError
from icl_locate.metrics import Metric, TextScore
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.models.loading import check_model, load_model
from icl_locate.prompts.template import Choice
from icl_locate.records.files import describe
from icl_locate.records.store import Store
from icl_locate.studies.place import Executor, using
from icl_locate.studies.recipe import describe_model, describe_value
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task

_QUERIES = 32
"""Queries unless told otherwise."""


@checked(TaskError, model=anything, task=anything, methods=anything, metric=anything)
def triangulate(
    model: Model | str | Path,
    task: Task | str | Path,
    methods: str | Iterable[str] | None = None,
    *,
    n_shots: int = 5,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = (0, 1, 2),
    metric: str | Metric | TextScore | None = None,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    max_new_tokens: int = 50,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    token_budget: int | None = None,
    engine: Engine | str = "auto",
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
    **options: Mapping[str, Any],
) -> Agreement:
    """Locate a task by several methods, and hold them against each other on one layer axis.

    Layer ``L`` of the axis is the residual stream that enters layer ``L``; `icl_locate.agreement`
    says where each method stands on it. All are measured on the same queries, seeds and shots, and
    by the same metric, but for what a witness notes: differences are paired as far as that goes.
    A method that fails while it runs is left out, and the result says why.

    Args:
        methods: of "masking", "single_layer", "disconnections", "task_vector", "many_positions",
            "function_vector", "kernel_alignment", "probe" and "lora"; ``None``: all that train
            nothing, but for those that the task cannot serve.
        n_queries: the first so many of ``task.test``; ``None`` means 32, or all.
        metric: of every method; ``None`` means the task's.
        confidence, n_resamples, seed: of all intervals, as in `locate`.
        options: by a method's name its own, such as ``function_vector={"n_heads": 5}``, and those
            that training asks for: ``lora={"output": "runs/lora", "model": "embedded"}``.
        model, task, n_shots, seeds, choice, prepend_bos, max_new_tokens: as in `sweep`.
        batch_size, token_budget, engine, progress, store, executor: as in `sweep`.

    Raises:
        TaskError: no methods, an unknown one, or one twice; options of none that runs; a method
            that was named and that the task cannot serve: before anything runs. All methods failed.
        MaskError, PromptError, ModelError, NumericalError, ResultError: as their sources say.
    """
    chosen = choose_methods(methods)
    _check_options(options, chosen)
    check_choice("engine", engine, ENGINES, error=TaskError)
    setting = Setting.of(
        task, metric=metric, n_queries=n_queries, seeds=seeds, n_shots=n_shots, choice=choice,
        prepend_bos=prepend_bos, max_new_tokens=max_new_tokens, most_queries=_QUERIES,
    )  # fmt: skip
    asked = Asked(setting, metric, engine, batch_size, token_budget, progress)
    how = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    with using(store, executor, study="triangulate"):
        return _run(model, asked, chosen, options, how, leave_out=methods is None)


def _run(
    model: Model | str | Path,
    asked: Asked,
    chosen: Sequence[Method],
    options: Mapping[str, Mapping[str, Any]],
    how: Mapping[str, Any],
    *,
    leave_out: bool,
) -> Agreement:
    """Check all methods, then run them one by one."""
    if isinstance(model, (str, Path)):
        asked, model = replace(asked, named=model), load_model(model)
    bridge = check_model(model)
    left_out: dict[str, str] = {}
    works = [_Work(one, bridge, replace(asked, own=options.get(one.name, {}))) for one in chosen]
    with hold_weights(bridge):
        works = [work for work in works if _served(work, left_out, named=not leave_out)]
        recipe = {
            **describe_model(bridge),
            **asked.setting.asked(),
            "methods": [work.method.name for work in works],
            "options": describe_value(options),
        }
        bar = tqdm(works, unit="method", desc="methods", disable=not asked.progress)
        runs = [work for work in bar if _finished(work, left_out, alone=len(works) == 1)]
    return _result(runs, left_out, recipe, bridge, **how)


def _check_options(options: Mapping[str, Any], chosen: Iterable[Method]) -> None:
    """Refuse options of methods that do not run, or that those do not have."""
    running = {method.name: method for method in chosen}
    for name, own in options.items():
        if name not in METHODS:
            raise TypeError(f"triangulate() got an unexpected keyword argument {name!r}")
        if name not in running:
            raise TaskError(
                f"options of {name!r} were given, but it does not run: name it among the methods"
            )
        if not isinstance(own, Mapping):
            refuse(name, own, "a mapping of options' names to their values", TaskError)
        for option, value in own.items():
            known = running[name].options
            check_choice(f"an option of {name}", option, known, error=TaskError)
            known[option](option, value, TaskError)


@dataclass
class _Work:
    """One method at work."""

    method: Method
    model: Model
    asked: Asked
    found: Measurement | None = None
    seconds: float = 0.0

    def check(self) -> None:
        """Refuse what the task cannot serve; nothing heavy runs."""
        self.method.check(self.model, self.asked)

    def run(self) -> None:
        """Measure."""
        start = time.perf_counter()
        self.found = self.method.run(self.model, self.asked)
        self.seconds = time.perf_counter() - start

    def curve(self) -> MethodCurve:
        """What was measured, on the common axis."""
        method, found = self.method, self.found
        assert found is not None  # noqa: S101 - those that did not run are not asked
        return MethodCurve(
            method=method.name,
            kind=method.kind,
            lowers=method.lowers,
            share=method.share,
            question=method.question,
            cannot_show=method.cannot_show,
            places=method.places,
            layers=found.layers,
            seeds=found.result.seeds,
            draws=found.draws,
            items=tuple(query.source for query in self.asked.setting.queries),
            statistics=found.statistics,
            metric=found.result.metric,
            seconds=self.seconds,
            n_prompts=found.n_prompts,
            notes=found.notes,
            provenance=found.result.provenance,
            custom_metric=found.result.custom_metric,
        )


def _served(work: _Work, left_out: dict[str, str], *, named: bool) -> bool:
    """Whether the task can serve a method; of one that was named it must."""
    try:
        work.check()
    except (TaskError, MaskError, PromptError, ModelError) as error:
        if named:
            raise
        left_out[work.method.name] = str(error)
        return False
    return True


def _finished(work: _Work, left_out: dict[str, str], *, alone: bool) -> bool:
    """Run a method; what fails then takes nothing from the others, and the result says why.

    Args:
        alone: whether there are no others.
    """
    try:
        work.run()
    except Exception as error:  # whatever a model or somebody's metric raises
        if alone:
            raise
        ours = isinstance(error, IclLocateError)
        left_out[work.method.name] = (
            str(error) if ours else f"{type(error).__name__}: {describe(error)}"
        )
        return False
    return True


def _result(
    works: Sequence[_Work],
    left_out: Mapping[str, str],
    recipe: Mapping[str, Any],
    model: Model,
    **how: Any,
) -> Agreement:
    """What was measured.

    Raises:
        TaskError: if the task can serve no method.
    """
    if not works:
        why = "; ".join(f"{name}: {said}" for name, said in left_out.items())
        raise TaskError(f"the task {recipe['task']!r} serves none of the methods: {why}")
    results: dict[str, Any] = {}
    for work in works:
        if work.found is not None:
            results |= {work.method.name: work.found.result, **work.found.others}
    return Agreement.of(
        [work.curve() for work in works],
        n_layers=int(model.cfg.n_layers),
        left_out=left_out,
        provenance=recipe,
        results=results,
        custom_metric=works[0].asked.setting.custom_metric,
        **how,
    )
