"""Hiding the context from single heads, from all but one, and from growing sets."""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import product
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import torch
from numpy import ndarray
from tqdm.auto import tqdm

from icl_locate.checks.signatures import anything, checked
from icl_locate.context_heads.result import HeadSetCurve, HeadSweepResult
from icl_locate.engine.choice import Engine, choose_engine
from icl_locate.errors import MaskError, TaskError
from icl_locate.interventions.conditions import Condition, get_condition
from icl_locate.interventions.heads import HeadSet
from icl_locate.interventions.layers import as_pairs, check_heads, list_pairs
from icl_locate.interventions.masks import ContextMask, Rows, check_segments
from icl_locate.metrics import Metric, Statistics, TextScore, score_totals
from icl_locate.metrics.base import check_columns
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.place import Executor, check_place, using
from icl_locate.studies.setting import Setting
from icl_locate.studies.units import Request
from icl_locate.tasks.task import Task

Mode = Literal["hidden", "kept"]
Head = tuple[int, int]
P = ParamSpec("P")
R = TypeVar("R")


def _kept(method: Callable[P, R]) -> Callable[P, R]:
    """A method of a study, all of whose runs are kept and executed as the study was told."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        study: Any = args[0]
        with using(study._store, study._executor, study=f"head_study.{method.__name__}"):
            return method(*args, **kwargs)

    return call


class HeadStudy:
    """A model, a task and a condition whose context is hidden from some heads."""

    @checked(TaskError, task=anything, condition=anything, metric=anything)
    def __init__(
        self,
        model: Model,
        task: Task | str | Path,
        condition: str | Condition = "examples",
        *,
        rows: Rows | str = "all",
        n_shots: int = 5,
        n_queries: int | None = None,
        seeds: int | Iterable[int] = 0,
        metric: str | Metric | TextScore | None = "log_prob",
        choice: Choice | str | None = None,
        prepend_bos: bool | None = None,
        max_new_tokens: int = 50,
        batch_size: int = 64,
        engine: Engine | str = "auto",
        progress: bool = False,
        store: str | Path | Store | None = None,
        executor: Executor | None = None,
    ) -> None:
        """Build the prompts, and check everything before anything runs.

        Args:
            condition: what is hidden, as in `sweep`.
            rows: "all" rows are masked, or only those "after" the context, so that the context may
                still read itself.
            n_shots, n_queries, seeds, metric, choice, prepend_bos, max_new_tokens, batch_size,
                engine: as in `sweep`, but for the default of 32 queries. The default metric, the
                log-probability of the target, is the finest one for single heads.
            progress: whether to show progress bars.
            store, executor: as in `sweep`, for all that the study runs.

        Raises:
            TaskError: too few queries, no seeds, an unknown metric.
            MaskError: a condition that hides what the prompts do not hold.
            PromptError, ModelError: as their sources say.
        """
        self._model, self._rows = model, rows
        self._n_layers, self._n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
        self._condition = get_condition(condition)
        self._setting = Setting.of(
            task,
            metric=metric,
            n_queries=n_queries,
            seeds=seeds,
            n_shots=n_shots,
            choice=choice,
            prepend_bos=prepend_bos,
            max_new_tokens=max_new_tokens,
            most_queries=32,
        )
        self._metric = self._setting.metric
        self._engine = choose_engine(model, engine)
        self._batch_size, self._progress = batch_size, progress
        self._store, self._executor = check_place(store, executor)
        self._prompts = [self._build(seed) for seed in self._setting.seeds]

    @checked(MaskError)
    @_kept
    def sweep(self, mode: Mode | str = "hidden") -> HeadSweepResult:
        """Hide the context from each head alone, or ("kept") from all heads but one.

        Raises:
            MaskError: if the mode is unknown.
            NumericalError: if the model gives NaN.
        """
        every, recipe = self._every(), self._recipe()
        by_layer = [
            [self._hidden({(layer, head)}, mode) for head in range(self._n_heads)]
            for layer in range(self._n_layers)
        ]
        statistics = self._run([*by_layer, [frozenset(), every]])
        scores = torch.from_numpy(score_totals(self._metric, statistics.sum(axis=-2)))
        return HeadSweepResult(
            mode=str(mode),
            condition=self._condition.name,
            seeds=self._setting.seeds,
            statistics=torch.from_numpy(statistics),
            scores=scores[:-2].view(self._n_layers, self._n_heads, -1),
            ceiling=scores[-2],
            floor=scores[-1],
            metric=self._metric.name,
            provenance=recipe | self._setting.outcome(),
            custom_metric=self._setting.custom_metric,
        )

    @checked(MaskError, heads=anything)
    @_kept
    def nested(
        self,
        heads: Sequence[Head] | HeadSet,
        sizes: Sequence[int] | None = None,
        mode: Mode | str = "kept",
    ) -> HeadSetCurve:
        """Score the first so many of some heads, kept or hidden together.

        Args:
            heads: in the order in which they join, such as ``result.best(16)``.
            sizes: of the sets; ``None`` means 1, 2, 4, ... and all. The empty set comes first.

        Raises:
            MaskError: heads that the model does not have; sizes out of range; an unknown mode.
        """
        order = HeadSet(tuple(list_pairs(heads)), self._n_layers, self._n_heads)
        if sizes is None:
            sizes = [2**i for i in range(len(order).bit_length()) if 2**i < len(order)]
            sizes = [*sizes, len(order)]
        if any(not 0 <= size <= len(order) for size in sizes):
            raise MaskError(f"sizes are {list(sizes)}: expected 0 to {len(order)} heads")
        chosen = tuple(sorted({0, *sizes}))
        sets = [self._hidden(set(order.heads[:size]), mode) for size in chosen]
        recipe = self._recipe()
        return self._curve(str(mode), order, chosen, self._run([[one] for one in sets]), recipe)

    @checked(MaskError, candidates=anything)
    @_kept
    def greedy(
        self,
        n_heads: int,
        candidates: Iterable[Head] | None = None,
        mode: Mode | str = "kept",
    ) -> HeadSetCurve:
        """Let heads join one by one, each time the one that does most together with those before.

        Kept: that raises the score most. Hidden: that lowers it most. A step runs every candidate.

        Args:
            n_heads: how many are to join.
            candidates: heads that may; ``None`` means all.

        Raises:
            MaskError: fewer candidates than heads; an unknown mode.
        """
        left = sorted(self._every() if candidates is None else as_pairs(candidates, "candidates"))
        check_heads(left, self._n_layers, self._n_heads)
        if not 1 <= n_heads <= len(left):
            raise MaskError(f"n_heads is {n_heads}: expected 1 to {len(left)} candidates")
        sign = -1 if mode == "hidden" else 1
        chosen, recipe = list[Head](), self._recipe()
        tables = [self._run([[self._hidden(set(), mode)]])[0]]
        for _ in tqdm(range(n_heads), unit="head", disable=not self._progress):
            sets = [[self._hidden({*chosen, head}, mode)] for head in left]
            found = self._run(sets, quiet=True)
            means = sign * score_totals(self._metric, found.sum(axis=-2)).mean(axis=-1)
            best = int(means.argmax())
            tables.append(found[best])
            chosen.append(left.pop(best))
        order = HeadSet(tuple(chosen), self._n_layers, self._n_heads)
        return self._curve(str(mode), order, tuple(range(n_heads + 1)), np.stack(tables), recipe)

    def _curve(
        self,
        mode: str,
        heads: HeadSet,
        sizes: tuple[int, ...],
        statistics: ndarray,
        recipe: dict[str, Any],
    ) -> HeadSetCurve:
        ends = score_totals(self._metric, self._run([[frozenset(), self._every()]]).sum(axis=-2))
        return HeadSetCurve(
            mode=mode,
            heads=heads,
            sizes=sizes,
            seeds=self._setting.seeds,
            statistics=torch.from_numpy(statistics),
            scores=torch.from_numpy(score_totals(self._metric, statistics.sum(axis=-2))),
            ceiling=float(ends[0].mean()),
            floor=float(ends[1].mean()),
            metric=self._metric.name,
            provenance=recipe | self._setting.outcome(),
            custom_metric=self._setting.custom_metric,
        )

    def _hidden(self, heads: set[Head], mode: str) -> frozenset[Head]:
        """The heads from which the context is hidden."""
        if mode not in ("hidden", "kept"):
            raise MaskError(f"mode is {mode!r}: expected 'hidden' or 'kept'")
        return frozenset(heads) if mode == "hidden" else self._every() - heads

    def _run(self, groups: Sequence[Sequence[frozenset[Head]]], *, quiet: bool = False) -> ndarray:
        """Statistics ``[cell, seed, item, stat]``; the cells of a group run together."""
        by_seed: list[list[Statistics]] = [[] for _ in self._prompts]
        total = sum(map(len, groups)) * len(self._prompts)
        with tqdm(
            total=total, unit="cell", desc="heads", disable=quiet or not self._progress
        ) as bar:
            masks = [[self._mask(heads) for heads in group] for group in groups]
            cells = self._setting.run_all(
                self._model,
                [Request(prompts, some) for prompts in self._prompts for some in masks],
                engine=self._engine,
                batch_size=self._batch_size,
                on_progress=bar.update,
            )
        for i, some in enumerate(cells):
            by_seed[i // len(groups)] += [cell.statistics for cell in some]
        check_columns(self._metric, [table for found in by_seed for table in found])
        return np.stack([np.stack(found) for found in by_seed], axis=1)

    def _mask(self, heads: frozenset[Head]) -> ContextMask:
        return ContextMask(
            self._condition.hide,
            heads=None if heads == self._every() else heads,
            rows=self._rows,
            keep_self=self._condition.keep_self,
            without_bias=self._condition.without_bias,
        )

    def _every(self) -> frozenset[Head]:
        return frozenset(product(range(self._n_layers), range(self._n_heads)))

    def _build(self, seed: int) -> Prompts:
        prompts = self._setting.prompts(self._model, seed, instruction=self._condition.instruction)
        check_segments(self._mask(frozenset()), prompts.segments)
        return prompts

    def _recipe(self) -> dict[str, Any]:
        """Where numbers that are about to be measured come from; the model as it is now."""
        return {
            **self._setting.recipe(self._model, self._prompts),
            "hide": sorted(segment.name for segment in self._condition.hide),
            "instruction": self._condition.instruction,
            "rows": str(self._rows),
            "engine": self._engine,
        }
