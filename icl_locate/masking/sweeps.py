"""Sweep a context mask over start layers, conditions and seeds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from icl_locate.checks.arguments import check_counts
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.choice import Engine, choose_engine
from icl_locate.engine.hooked import Cell, join_cells
from icl_locate.errors import MaskError, TaskError
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.conditions import Condition
from icl_locate.interventions.states import require_batch
from icl_locate.masking.plan import Plan, Shown, build_all, check, choose_conditions
from icl_locate.masking.result import SweepResult
from icl_locate.masking.sia2024 import sia2024_bos
from icl_locate.metrics import Metric, TextScore, score_totals
from icl_locate.metrics.base import check_columns
from icl_locate.models.bridge import Model
from icl_locate.models.loading import check_model, load_model
from icl_locate.prompts.template import Choice
from icl_locate.records.store import Store
from icl_locate.studies.display import Display, Watch, display
from icl_locate.studies.place import Executor, using
from icl_locate.studies.recipe import describe_intervention, describe_value
from icl_locate.studies.setting import Setting
from icl_locate.studies.units import Request
from icl_locate.tasks.task import Task


@checked(
    TaskError,
    model=anything,
    task=anything,
    conditions=anything,
    metric=anything,
    compat=anything,
    layers=anything,
)
def sweep(
    model: Model | str | Path,
    task: Task | str | Path,
    *,
    conditions: str | Condition | Iterable[str | Condition] | None = None,
    n_shots: int = 5,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = (0, 1, 2),
    metric: str | Metric | TextScore | None = None,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    max_new_tokens: int = 50,
    layers: int | Iterable[int] | None = None,
    scope: str = "from",
    compat: str | None = None,
    alongside: Intervention | None = None,
    batch_size: int = 64,
    token_budget: int | None = None,
    engine: Engine | str = "auto",
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> SweepResult:
    """Hide the context from each layer on, under each condition, and score what the model does.

    The method of Sia et al. (NeurIPS 2024, section 3): start layer ``l`` hides the condition's
    segments at layers ``l`` and above, for all rows and heads, at the prompt and at every generated
    token. Start ``0`` gives the floor, ``n_layers`` (nothing hidden) the ceiling.

    Args:
        model: a model, or what `load_model` takes.
        task: a task, or what `load_task` takes, such as the path of a file.
        conditions: conditions, or names of the paper's; a single one may stand alone. ``None``
            means those of the paper that the prompts allow: without an instruction in the task's
            template only "examples". ``result.conditions`` names them.
        n_queries: the first so many queries of ``task.test``, the same for every seed; ``None``
            means 64, or all that there are.
        seeds: each, or a single one, draws other examples for the same queries.
        metric: a name ("bleu", "chrf", "exact_match", "token_accuracy", "log_prob",
            "label_accuracy", "label_accuracy_contextual", "label_accuracy_domain",
            "first_token_accuracy", "first_token_prob", "pass@1"), a `Metric`, or a function of
            (answer, target) that is averaged; ``None`` means the task's. "pass@1" runs generated
            programs (in the sandbox), and so must be asked for by name.
        choice: how examples are drawn, as `build_prompts` says; ``None`` means the task's way.
        prepend_bos: whether prompts start with BOS; ``None`` follows the model's tokenizer (or
            ``compat``).
        max_new_tokens: length at which an answer ends if no stop string ended it before.
        layers: the start layers that run, such as ``range(0, 33, 4)``; 0 and ``n_layers`` always
            do. ``None`` means all.
        scope: where a mask that starts at a layer acts: "from" it on, "only" there, or in a
            "window:W" of layers from it on. With the last two the curve shows what each layer's
            reading of the context is worth (`layer_importance`), and `locate` refuses it.
        compat: "sia2024" hides the columns that the authors' own code hides, which miss the
            segments' borders by a token or two. Prompts then start with BOS as theirs do: on Llama,
            not on GPT-Neo, BLOOM and StarCoder2; for other architectures ``prepend_bos`` says whose
            columns are meant.
        alongside: what is done in every cell beside its mask, the ceiling's included, such as a
            `HeadAblation`: where is the task recognised without these heads?
        batch_size: the most prompts that run at once.
        token_budget: the most tokens that the shared engine holds at once, over all its runs;
            ``None`` derives it from free memory.
        engine: "hooks" runs the model once for each cell; "shared" runs it once for all start
            layers and conditions; "auto" is "shared" wherever that is exact.
        progress: whether to show a progress bar over the cells.
        store: a directory that keeps every answer as soon as it is there, for this call and later
            ones: what it holds is not run again, whoever wrote it. ``None`` keeps nothing.
        executor: who runs what is missing, such as `RayExecutor`; ``None``: this process.

    Raises:
        TaskError: too few queries, no conditions or seeds, an unknown metric.
        MaskError: a condition that hides what the prompts do not hold.
        ResultError: if an answer cannot be kept; those before it are.
        PromptError, ModelError, NumericalError: as their sources say.
    """
    if not isinstance(model, (str, Path)):
        check_model(model)
    setting = Setting.of(
        task,
        metric=metric,
        n_queries=n_queries,
        seeds=seeds,
        n_shots=n_shots,
        choice=choice,
        prepend_bos=prepend_bos,
        max_new_tokens=max_new_tokens,
    )
    plan = Plan(
        model=model,
        setting=setting,
        conditions=choose_conditions(setting.task, setting.n_shots, conditions),
        layers=None if layers is None else _check_layers(layers),
        scope=scope,
        compat=compat,
        alongside=alongside,
    )
    check(plan, engine)
    with using(store, executor, study="sweep"):
        plan = _with_model(plan)
        every = [run for condition in plan.conditions for run in plan.runs(condition)]
        runs = _Runs(plan, choose_engine(plan.model, engine, every), batch_size, token_budget)
        return runs.result(progress=progress)


def _check_layers(layers: int | Iterable[int]) -> frozenset[int]:
    return frozenset(check_counts("layers", layers, least=0, error=MaskError))


def _with_model(plan: Plan) -> Plan:
    """The plan with its model loaded, and what that decides."""
    model, setting = plan.model, plan.setting
    if isinstance(model, (str, Path)):
        model = load_model(model)
    if plan.compat is not None:
        bos = sia2024_bos(str(model.cfg.architecture), setting.prepend_bos)
        setting = replace(setting, prepend_bos=bos)
    return replace(plan, model=model, setting=setting)


@dataclass
class _Runs:
    """The runs of a plan."""

    plan: Plan
    engine: Literal["shared", "hooks"]
    batch_size: int
    token_budget: int | None

    def result(self, *, progress: bool) -> SweepResult:
        """Run everything, group by group."""
        plan, setting = self.plan, self.plan.setting
        shown = build_all(plan)
        recipe = {
            **setting.recipe(plan.model, [some.prompts for some in shown.values()]),
            **_describe(plan),
            "engine": self.engine,
        }
        every = [_Group.of(plan, group, seed, some) for (group, seed), some in shown.items()]
        requests = [one for some in every for one in some.requests]
        total = sum(len(one.runs) for one in requests)
        names = [condition.name for condition in plan.conditions]
        with display(total, setting.task.name, names, show=progress) as shown_now:
            watch = self._watch(every, shown_now) if progress else lambda _: None
            cells = iter(
                setting.run_all(
                    plan.model, requests, engine=self.engine, batch_size=self.batch_size,
                    token_budget=self.token_budget, on_progress=shown_now.bar.update,
                    on_answers=watch,
                )
            )  # fmt: skip
        grid: dict[tuple[str, int, int], Cell] = {}
        for some in every:
            grid |= some.collect([next(cells) for _ in some.requests])
        return _collect(plan, grid, recipe | setting.outcome())

    def _watch(self, every: Sequence["_Group"], shown: Display) -> Watch:
        """What shows the curves while answers come."""
        plan = self.plan
        curves = {c.name: [list[tuple[int, int]]() for _ in plan.starts] for c in plan.conditions}
        number = 0
        for group in every:
            for _ in group.requests:
                for run, (condition, start, _) in enumerate(group.places):
                    curves[condition][plan.starts.index(start)].append((number, run))
                number += 1
        targets = [one.prompts.targets for group in every for one in group.requests]
        return Watch(plan.setting.metric, targets, curves, shown.show)


@dataclass(frozen=True)
class _Group:
    """The conditions that have some prompts in common, under one seed.

    Attributes:
        places: condition, start layer and seed of each cell.
        items: the numbers of the prompts of each request: all, or a part of them.
    """

    places: list[tuple[str, int, int]]
    items: list[list[int]]
    requests: list[Request]

    @classmethod
    def of(cls, plan: Plan, group: str, seed: int, shown: Shown) -> "_Group":
        """What is run on some prompts.

        Raises:
            MaskError: if what acts alongside has values for other prompts.
        """
        conditions = [c for c in plan.conditions if plan.group(c) == group]
        items, requests = [], []
        for n_hidden_generated, some, prompts in shown.parts():
            runs = [run for c in conditions for run in plan.runs(c, n_hidden_generated)]
            for run in runs:
                require_batch(run, len(shown.prompts))
            items.append(some)
            requests.append(Request(prompts, [run.take(some) for run in runs]))
        places = [(c.name, start, seed) for c in conditions for start in plan.starts]
        return cls(places, items, requests)

    def collect(self, found: Sequence[list[Cell]]) -> dict[tuple[str, int, int], Cell]:
        """The cells, by their places, from those of each request."""
        cells = join_cells(list(zip(self.items, found, strict=True)))
        return dict(zip(self.places, cells, strict=True))


def _collect(
    plan: Plan, grid: dict[tuple[str, int, int], Cell], provenance: dict[str, Any]
) -> SweepResult:
    setting, starts, seeds = plan.setting, plan.starts, plan.setting.seeds

    def table(value: Callable[[Cell], Any]) -> list[list[list[Any]]]:
        return [
            [[value(grid[condition.name, start, seed]) for seed in seeds] for start in starts]
            for condition in plan.conditions
        ]

    check_columns(setting.metric, [cell.statistics for cell in grid.values()])
    statistics = np.array(table(lambda cell: cell.statistics))
    return SweepResult(
        conditions=tuple(condition.name for condition in plan.conditions),
        layers=starts,
        seeds=seeds,
        statistics=torch.from_numpy(statistics),
        item_scores=torch.from_numpy(score_totals(setting.metric, statistics)),
        scores=torch.from_numpy(score_totals(setting.metric, statistics.sum(axis=-2))),
        texts=table(lambda cell: cell.texts),
        sources=tuple(example.source for example in setting.queries),
        targets=tuple(example.target for example in setting.queries),
        metric=setting.metric.name,
        provenance=provenance,
        custom_metric=setting.custom_metric,
    )


def _describe(plan: Plan) -> dict[str, Any]:
    """What a sweep's recipe says beside its setting's."""
    return {
        "conditions": [
            {
                "name": c.name,
                "hide": sorted(s.name for s in c.hide),
                "instruction": c.instruction,
                "keep_self": c.keep_self,
                "without_bias": c.without_bias,
                **({} if type(c) is Condition else {"own": describe_value(c)}),
            }
            for c in plan.conditions
        ],
        "first_shots": plan.setting.first_shots(),
        "scope": plan.scope,
        "compat": plan.compat,
        "alongside": None if plan.alongside is None else describe_intervention(plan.alongside),
    }
