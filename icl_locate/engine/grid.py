"""Whole grids of cells: one set of prompts under many masks, by either engine, within memory."""

from collections.abc import Callable, Sequence
from typing import Any

from icl_locate.engine.budget import default_budget, run_in_chunks, tokens_in_flight
from icl_locate.engine.choice import Engine, choose_engine, other_than_masks
from icl_locate.engine.hooked import Cell, run_cell
from icl_locate.engine.progress import CellCount
from icl_locate.engine.readout import Run, read_many
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.masks import Mask, as_mask, resolve
from icl_locate.metrics import Metric, readout_of
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts


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
    """Run the prompts under each intervention; one cell for each.

    Args:
        runs: masks, or any other interventions and compositions of them.
        engine: as `choose_engine` takes it; "auto" runs grids of anything but context masks on
            the hooks engine.
        token_budget: for the shared engine, the most tokens that are in flight at once, over all
            runs; ``None`` derives it from free memory.
        on_progress: told how many more cells are done; where all cells are under way at once, how
            many their work so far comes to.

    Raises:
        ModelError: if the shared engine was asked for, and cannot run these.
    """
    if engine == "auto" or other_than_masks(runs) is not None:
        engine = choose_engine(model, engine, runs)
    if engine == "hooks":
        return _run_hooked(model, prompts, runs, metric, max_new_tokens, batch_size, on_progress)
    masks = [as_mask(run) for run in runs]
    cost = tokens_in_flight(
        model, prompts, masks, max_new_tokens if readout_of(metric).generates else 0
    )
    answers: list[list[Any]] = [[] for _ in masks]
    count = CellCount(on_progress, len(masks), len(prompts))

    def run_batch(batch: Prompts) -> None:
        one = Run(model, batch, max_new_tokens, batch_size, count.during(len(batch)))
        for written, new in zip(answers, read_many(one, metric, masks), strict=True):
            written.extend(new)
        count.finish(len(batch))

    limit = token_budget if token_budget is not None else default_budget(model, prompts, cost)
    run_in_chunks(prompts, cost, limit, batch_size, run_batch)
    return [Cell.of(metric, row, prompts.targets) for row in answers]


def _run_hooked(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    metric: Metric,
    max_new_tokens: int,
    batch_size: int,
    on_progress: Callable[[int], object],
) -> list[Cell]:
    """One hooked run for each cell; masks that hide nothing share one."""
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    cells: list[Cell] = []
    clean: Cell | None = None
    for run in runs:
        acts = not isinstance(run, Mask) or bool(resolve(run, n_layers, n_heads))
        cell = clean
        if acts or cell is None:
            options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
            cell = run_cell(model, prompts, run, metric, **options)
        clean = clean if acts else cell
        cells.append(cell)
        on_progress(1)
    return cells
