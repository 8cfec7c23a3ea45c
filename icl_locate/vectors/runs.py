"""Runs of prompts with vectors in them, and what every experiment with vectors does with them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate.checks.arguments import check_choice, check_counts, check_items, refuse
from icl_locate.engine.choice import Engine
from icl_locate.errors import MaskError, TaskError
from icl_locate.interventions.base import Composition, Intervention
from icl_locate.metrics import score_totals
from icl_locate.metrics.base import check_columns
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.place import Executor, using
from icl_locate.studies.setting import Setting
from icl_locate.tasks.loading import load_task
from icl_locate.tasks.task import Task

NOTHING = Composition(())
"""What leaves a model as it is."""
Vectors = Float[Tensor, "seed layer d_model"]
Table = Float[ndarray, "..."]


@dataclass(frozen=True)
class Runs:
    """How prompts are run.

    Attributes:
        bar: told how many runs there are, and how many are done.
    """

    model: Model
    engine: Engine | str
    batch_size: int
    token_budget: int | None
    bar: Any = None

    @contextmanager
    def showing(
        self,
        study: str,
        store: str | Path | Store | None = None,
        executor: Executor | None = None,
        *,
        progress: bool,
    ) -> Iterator["Runs"]:
        """The same with a progress bar, on weights that stay as they are.

        Args:
            study: what runs.
            store, executor: as in `icl_locate.sweep`.
        """
        with (
            using(store, executor, study=study),
            hold_weights(self.model),
            tqdm(unit="run", desc=study, disable=not progress) as bar,
        ):
            yield Runs(self.model, self.engine, self.batch_size, self.token_budget, bar)

    def tables(
        self, setting: Setting, prompts: Prompts, runs: Sequence[Intervention]
    ) -> Float[ndarray, "run item stat"]:
        """Each item's statistics of the setting's metric under each intervention."""
        self.bar.total = (self.bar.total or 0) + len(runs)
        cells = setting.run(
            self.model, prompts, runs, engine=self.engine, batch_size=self.batch_size,
            token_budget=self.token_budget, on_progress=self.bar.update,
        )  # fmt: skip
        found = [cell.statistics for cell in cells]
        check_columns(setting.metric, found)
        return np.stack(found)


def scores_of(setting: Setting, table: Table) -> Table:
    """The metric of each cell of a table ``[*cell, item, stat]``."""
    return score_totals(setting.metric, table.sum(axis=-2))


def tensors(tables: dict[str, Table]) -> dict[str, Tensor]:
    """Tables as results hold them."""
    return {name: torch.from_numpy(np.ascontiguousarray(table)) for name, table in tables.items()}


def check_learnt(setting: Setting, few_shot: Table) -> None:
    """Refuse a task that the model never gets right with demonstrations: there is no vector of it.

    Args:
        few_shot: statistics with demonstrations in the prompt, ``[seed, item, stat]``.

    Raises:
        TaskError: if its score is 0 under every seed.
    """
    if not scores_of(setting, few_shot).any():
        raise TaskError(
            f"the model answers none of {len(setting.queries)} queries of {setting.task.name!r} "
            f"with {setting.n_shots} demonstrations in the prompt ({setting.metric.name} is 0 "
            "under every seed): there is nothing to take a vector of; use a task that it learns in "
            "context, more shots, or metric='log_prob'"
        )


def with_examples(name: str, task: Task | str | Path) -> Task:
    """A task that prompts can be built of, with context and without.

    Raises:
        TaskError: if it is none, saying which argument it was, or its prompts are given.
    """
    if not isinstance(task, (Task, str, Path)):
        refuse(name, task, "a Task, or a name or file that load_task takes", TaskError)
    try:
        found = load_task(task)
    except TaskError as error:
        raise TaskError(f"{name}: {error}") from error
    if found.prompts is not None:
        raise TaskError(
            f"the task {found.name!r} has prompts of its own, and none without context can be made "
            "of them: use a task with examples (icl_locate.load_task)"
        )
    return found


def choose_controls(controls: Iterable[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """The controls that run, each once; ``None``: all that there are.

    Raises:
        TaskError: if one is unknown.
    """
    given = known if controls is None else controls
    found = check_items("controls", given, "a list of names", error=TaskError)
    names = [check_choice("controls", name, known, error=TaskError) for name in found]
    return tuple(dict.fromkeys(names))


def choose_layers(model: Model, layers: int | Iterable[int] | None) -> tuple[int, ...]:
    """The layers that are tried, in order.

    Raises:
        MaskError: if the model does not have one, or there are none.
    """
    n_layers = int(model.cfg.n_layers)
    if layers is None:
        return tuple(range(n_layers))
    found = sorted(set(check_counts("layers", layers, least=0, error=MaskError)))
    if found[-1] >= n_layers:
        raise MaskError(f"layers holds {found[-1]}: expected layers from 0 to {n_layers - 1}")
    return tuple(found)
