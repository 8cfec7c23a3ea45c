"""Whole grids of cells: one set of prompts under many masks, by either engine, within memory."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from icl_locate.engine.budget import Cost, default_budget, fits, in_halves, run_in_chunks
from icl_locate.engine.choice import Engine, choose_engine
from icl_locate.engine.hooked import Cell, answer_cell
from icl_locate.engine.progress import CellCount
from icl_locate.engine.readout import Run, read_many
from icl_locate.hooks.context import hides_cells
from icl_locate.interventions.base import Intervention, check_intervention
from icl_locate.interventions.masks import as_mask, check_segments, resolve
from icl_locate.interventions.states import require_batch
from icl_locate.metrics import Answers, Metric, Readout, readout_of
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

_log = logging.getLogger(__name__)


def run_grid(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    metric: Metric,
    *,
    engine: Engine | str,
    max_new_tokens: int,
    batch_size: int,
    token_budget: int | None = None,
    on_progress: Callable[[int], object] = lambda _: None,
) -> list[Cell]:
    """Run the prompts under each intervention; one cell for each, run as `answer_grid` says."""
    answers = answer_grid(
        model, prompts, runs, readout_of(metric), engine=engine, max_new_tokens=max_new_tokens,
        batch_size=batch_size, token_budget=token_budget, on_progress=on_progress,
    )  # fmt: skip
    return cells_of(metric, answers, prompts.targets)


def cells_of(metric: Metric, answers: Sequence[Answers], targets: Sequence[str]) -> list[Cell]:
    """A metric's cell of each run's answers; runs that share one list share one cell."""
    once = {id(row): row for row in answers}
    found = {key: Cell.of(metric, row, targets) for key, row in once.items()}
    return [found[id(row)] for row in answers]


def answer_grid(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    readout: Readout,
    *,
    engine: Engine | str,
    max_new_tokens: int,
    batch_size: int,
    token_budget: int | None = None,
    on_progress: Callable[[int], object] = lambda _: None,
) -> list[Answers]:
    """Run the prompts under each intervention; an answer to each prompt under each.

    Args:
        runs: masks, or any other interventions and compositions of them, of different kinds too.
        engine: as `choose_engine` takes it.
        token_budget: for the shared engine, the most tokens that are in flight at once, over all
            runs that go together; ``None`` derives it from free memory.
        on_progress: told how many more cells are done; where all cells are under way at once, how
            many their work so far comes to.

    Raises:
        ModelError: if the shared engine was asked for, and cannot run these.
    """
    engine = choose_engine(model, engine, runs)
    if engine == "hooks":
        return _run_hooked(model, prompts, runs, readout, max_new_tokens, batch_size, on_progress)
    for run in runs:
        check_segments(run, prompts.segments)
        require_batch(run, len(prompts))
    cost = Cost.of(model, prompts, runs, max_new_tokens if readout.generates else 0)
    limit = token_budget
    if limit is None:
        limit = default_budget(model, prompts, cost.total, cost.least)
    answers: list[list[Any]] = [[] for _ in runs]
    waiting = cost.portions(limit)
    while waiting:
        some = waiting.pop(0)
        count = CellCount(on_progress, len(some), len(prompts))
        run_batch = partial(
            _run_batch, model, prompts, [runs[i] for i in some], readout, max_new_tokens,
            batch_size, count, [answers[i] for i in some],
        )  # fmt: skip
        chunks = partial(
            run_in_chunks, len(prompts), cost.of_portion(some), limit, batch_size, run_batch
        )
        if not fits(chunks, smallest=len(some) == 1):
            on_progress(-count.n_told)
            for i in some:
                answers[i].clear()
            waiting = [some[: len(some) // 2], some[len(some) // 2 :], *waiting]
            _log.warning("out of memory with one prompt: %d runs at once", len(waiting[1]))
    return list(answers)


def _run_batch(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    readout: Readout,
    max_new_tokens: int,
    batch_size: int,
    count: CellCount,
    answers: Sequence[list[Any]],
    items: range,
) -> None:
    """Run some of the prompts by the shared engine, and add their answers."""
    one = Run(model, prompts.take(items), max_new_tokens, batch_size, count.during(len(items)))
    found = read_many(one, readout, [run.take(items) for run in runs])
    for written, new in zip(answers, found, strict=True):
        written.extend(new)
    count.finish(len(items))


def _run_hooked(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    readout: Readout,
    max_new_tokens: int,
    batch_size: int,
    on_progress: Callable[[int], object],
) -> list[Answers]:
    """One hooked run for each cell; runs that do the same share one."""
    found: dict[frozenset[Intervention], Answers] = {}
    answers: list[Answers] = []
    size = min(batch_size, len(prompts))
    for run in runs:
        acting = _acting(model, prompts, run)
        if acting not in found:
            cell = partial(answer_cell, model, prompts, run, readout, max_new_tokens)
            found[acting], size = in_halves(size, cell)
        answers.append(found[acting])
        on_progress(1)
    return answers


def _acting(model: Model, prompts: Prompts, run: Intervention) -> frozenset[Intervention]:
    """The parts of a run without the masks that hide nothing, which are checked here.

    Raises:
        MaskError: if one of these fits neither the model nor the prompts.
    """
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    acting: list[Intervention] = []
    for part in check_intervention("a run", run).parts:
        if not hides_cells(part) or resolve(as_mask(part), n_layers, n_heads):
            acting.append(part)
        else:
            check_segments(part, prompts.segments)
    return frozenset(acting)
