"""Which edges of the circuit a model needs, and where: each is cut in windows of layers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from tqdm.auto import tqdm

from icl_locate.checks.arguments import check_choice, check_items, refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.circuit.cut_result import Disconnections
from icl_locate.circuit.edges import EDGES, CircuitEdges
from icl_locate.circuit.inputs import DEFAULT_SHOTS, CircuitSetting, Compat
from icl_locate.circuit.random_edges import RandomEdges
from icl_locate.circuit.windows import Window, Windows, choose_windows
from icl_locate.engine.choice import Engine, choose_engine
from icl_locate.errors import TaskError
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.layers import LayerRange, only_layer
from icl_locate.interventions.masks import NOTHING, EdgeMask, MaskUnion
from icl_locate.metrics import METRICS, Metric, generates, get_metric, readout_of, score_totals
from icl_locate.metrics.base import check_columns
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.template import Choice
from icl_locate.records.store import Store
from icl_locate.studies.place import Executor, using
from icl_locate.studies.units import Request
from icl_locate.tasks.task import Task


@checked(TaskError, task=anything, edges=anything, windows=anything, metric=anything)
def disconnect(
    model: Model,
    task: Task | str | Path,
    *,
    edges: str | Iterable[str] = EDGES,
    windows: Windows = "quarters",
    controls: int = 1,
    n_shots: int = DEFAULT_SHOTS,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = 0,
    metric: str | Metric | None = None,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    instruction: bool = False,
    compat: Compat | None = None,
    batch_size: int = 64,
    token_budget: int | None = None,
    engine: Engine | str = "auto",
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> Disconnections:
    """Cut kinds of edges of the inference circuit, all heads, in windows of layers; score the task.

    Cho et al. (ICLR 2025, section 5, Tables 1 and 2). All runs of a seed are of the same prompts,
    so that differences are paired. Other options are as in `sweep`.

    Args:
        edges: kinds of edges, or one, as `CircuitEdges` names them.
        windows: "quarters": each quarter of the layers, and all of them, as in the paper; "layers":
            each layer alone; a width: so many layers from each on; or (start, stop) layers.
        controls: how many times as many edges are cut at random beside each (`RandomEdges`).
        n_queries: ``None`` means 512, or all that there are.
        metric: one that reads log-probabilities; ``None`` means "label_accuracy".
        choice: how examples are drawn; ``None`` means the task's way, or "balanced".
        instruction: whether prompts hold the task's instruction.
        compat: "cho2025": the edges that the authors' code cuts and draws, and
            "bare_label_accuracy" as the metric, unless there is another.

    Raises:
        TaskError: unknown edges; a metric of generated answers; prompts that are given; a query of
            a class that no example has; other options out of range.
        MaskError: a window that is empty or outside the model.
        PromptError: a template without forerunner token; prompts that do not fit the model.
        ModelError, NumericalError: as their sources say.
    """
    chosen = _choose_edges(edges)
    scored = _choose_metric(metric, compat)
    asked = CircuitSetting.of(
        task, scored, n_shots=n_shots, n_queries=n_queries, seeds=seeds, choice=choice,
        prepend_bos=prepend_bos, instruction=instruction, classes=readout_of(scored).gives_text,
    )  # fmt: skip
    cuts = _Cuts(chosen, controls, choose_windows(windows, int(model.cfg.n_layers)), compat)
    runs = _Runs(model, asked, engine, batch_size, token_budget)
    with using(store, executor, study="disconnect"):
        return runs.result(cuts, progress=progress)


@dataclass(frozen=True)
class _Cuts:
    """What is cut, and where."""

    edges: tuple[str, ...]
    controls: int
    windows: tuple[Window, ...]
    compat: str | None

    @property
    def arms(self) -> tuple[str, ...]:
        return ("cut", *(f"random {i}" for i in range(self.controls)))

    def masks(self) -> list[Intervention]:
        """One for each edge, arm and window."""
        return [
            self._cut(edge, *window) if seed < 0 else self._random(edge, seed, *window)
            for edge in self.edges
            for seed in range(-1, self.controls)
            for window in self.windows
        ]

    def _cut(self, edge: str, start: int, stop: int) -> Intervention:
        return EdgeMask(CircuitEdges(edge, self.compat), LayerRange(start, stop))

    def _random(self, edge: str, seed: int, start: int, stop: int) -> Intervention:
        return MaskUnion(
            frozenset(
                EdgeMask(RandomEdges(edge, seed, layer, self.compat), only_layer(layer))
                for layer in range(start, stop)
            )
        )


@dataclass(frozen=True)
class _Runs:
    """The prompts of a study, and every cut of them."""

    model: Model
    asked: CircuitSetting
    engine: Engine | str
    batch_size: int
    token_budget: int | None

    def result(self, cuts: _Cuts, *, progress: bool) -> Disconnections:
        """Run all cuts under each seed, and collect what they scored."""
        setting, model = self.asked.setting, self.model
        shown = [self.asked.inputs(model, seed).prompts for seed in setting.seeds]
        masks = [*cuts.masks(), NOTHING]
        engine = choose_engine(model, self.engine, masks)
        recipe = self.asked.recipe(
            model, shown, edges=list(cuts.edges), windows=[list(some) for some in cuts.windows],
            controls=cuts.controls, compat=cuts.compat, engine=engine,
        )  # fmt: skip
        found = []
        with (
            hold_weights(model),
            tqdm(
                total=len(masks) * len(shown), unit="run", desc=setting.task.name,
                disable=not progress,
            ) as bar,
        ):  # fmt: skip
            by_seed = setting.run_all(
                model, [Request(prompts, masks) for prompts in shown], engine=engine,
                batch_size=self.batch_size, token_budget=self.token_budget, on_progress=bar.update,
            )  # fmt: skip
        for cells in by_seed:
            tables = [cell.statistics for cell in cells]
            check_columns(setting.metric, tables)
            found.append(np.stack(tables))
        return self._collect(cuts, np.stack(found, axis=1), recipe)

    def _collect(
        self, cuts: _Cuts, table: Float[ndarray, "cell seed item stat"], recipe: dict[str, Any]
    ) -> Disconnections:
        setting = self.asked.setting
        scores = torch.from_numpy(score_totals(setting.metric, table.sum(axis=-2)))
        shape = len(cuts.edges), len(cuts.arms), len(cuts.windows), len(setting.seeds)
        return Disconnections(
            edges=cuts.edges,
            arms=cuts.arms,
            windows=cuts.windows,
            seeds=setting.seeds,
            statistics=torch.from_numpy(table),
            scores=scores[:-1].reshape(shape),
            ceiling=scores[-1],
            metric=setting.metric.name,
            provenance=recipe | setting.outcome(),
            custom_metric=setting.custom_metric,
        )


def _choose_edges(edges: Any) -> tuple[str, ...]:
    """The kinds that are cut, each once."""
    expected = f"a list of some of {', '.join(EDGES)}"
    given: Sequence[Any] = (
        [edges]
        if isinstance(edges, str)
        else check_items("edges", edges, expected, ordered=True, error=TaskError)
    )
    if not given:
        refuse("edges", edges, expected, TaskError)
    return tuple(dict.fromkeys(check_choice("edges", one, EDGES, error=TaskError) for one in given))


def _choose_metric(metric: Any, compat: str | None) -> Metric:
    """A metric that reads log-probabilities."""
    default = "label_accuracy" if compat is None else "bare_label_accuracy"
    chosen = get_metric(default if metric is None else metric)
    if generates(chosen):
        known = ", ".join(name for name in METRICS if not generates(name))
        raise TaskError(
            f"the metric {chosen.name!r} reads generated answers, but cuts are scored by "
            f"log-probabilities: expected one of {known}"
        )
    return chosen
