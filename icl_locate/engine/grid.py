"""Whole grids of cells: one set of prompts under many masks, by either engine, within memory."""

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import psutil
import torch
from transformer_lens.hook_points import HookPoint

from icl_locate._types import Segment
from icl_locate.engine.hooked import Cell, run_cell
from icl_locate.engine.progress import CellCount
from icl_locate.engine.readout import Run, read_many
from icl_locate.engine.scoring import append_targets, score_targets
from icl_locate.engine.shared import can_drop, score_many
from icl_locate.engine.streams import NotSharedError, plan_streams
from icl_locate.errors import ModelError, PromptError
from icl_locate.hooks import find_route, hold
from icl_locate.hooks.probe import probe_prompts
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.layers import from_layer
from icl_locate.interventions.masks import ContextMask, Mask, as_mask, resolve
from icl_locate.metrics import Metric, readout_of
from icl_locate.models.bridge import Model
from icl_locate.models.costs import ModelCosts
from icl_locate.models.loading import check_model
from icl_locate.prompts.tokens import Prompts

Engine = Literal["auto", "shared", "hooks"]
ENGINES: tuple[str, ...] = ("auto", "shared", "hooks")

_disagreement: "weakref.WeakKeyDictionary[Model, str]" = weakref.WeakKeyDictionary()


def choose_engine(
    model: Model, engine: Engine | str, runs: Sequence[Intervention] = ()
) -> Literal["shared", "hooks"]:
    """The engine that runs: "auto" is "shared" wherever that is exact on this model.

    Args:
        runs: what is to run; the shared engine takes context masks alone.

    Raises:
        ModelError: if "shared" was asked for and is not exact here; the message says why.
    """
    check_model(model)
    if engine == "hooks":
        return "hooks"
    other = _other_than_masks(runs)
    if other is not None and engine == "auto":
        return "hooks"
    why_not = other if other is not None else why_not_shared(model)
    if not why_not:
        return "shared"
    if engine == "shared":
        raise ModelError(f"the shared engine cannot run here: {why_not}; use engine='hooks'")
    warnings.warn(f"falling back to the hooks engine: {why_not}", stacklevel=2)
    return "hooks"


def _other_than_masks(runs: Sequence[Intervention]) -> str | None:
    """Why some runs are none for the shared engine: the first kind that is no context mask."""
    for part in (part for run in runs for part in run.parts):
        if not isinstance(part, ContextMask):
            return f"it runs context masks, but a run holds a {type(part).__name__}"
    return None


def why_not_shared(model: Model) -> str:
    """Why the shared engine is not exact on a model now; empty if it is.

    On a model's first use its numbers are compared with the hooks engine's on a few random tokens.
    """
    with hold(model):
        find_route(model)
        return _why_not_shared(model)


def _why_not_shared(model: Model) -> str:
    if len({parameter.device for parameter in model.original_model.parameters()}) > 1:
        return "the model is spread over several devices"
    if any(_foreign_hooks(point) for point in model.hook_dict.values()):
        return "the model holds hooks of yours, which see only the hooks engine's runs"
    if model not in _disagreement:
        _disagreement[model] = _compare(model)
    return _disagreement[model]


def _foreign_hooks(point: HookPoint) -> bool:
    """Whether a hook point holds hooks that TransformerLens did not put there itself (on OPT)."""
    hooks = [getattr(handle, "user_hook", None) for handle in (*point.fwd_hooks, *point.bwd_hooks)]
    return any(
        not str(getattr(hook, "__module__", "")).startswith("transformer_lens.") for hook in hooks
    )


def _compare(model: Model) -> str:
    prompts = probe_prompts(model)
    masks = [
        ContextMask(hide, from_layer(start))
        for hide in ({Segment.EXAMPLES}, {Segment.QUERY})
        for start in range(int(model.cfg.n_layers) + 1)
    ]
    try:
        ours = score_many(model, prompts, masks, drop=can_drop(model))
    except (NotSharedError, ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
        return f"this {model.cfg.architecture} does not take it ({error})"
    theirs = torch.stack([score_targets(model, prompts, mask) for mask in masks])
    exact = {torch.float32: 1e-4, torch.float64: 1e-6}
    tolerance = exact.get(next(model.original_model.parameters()).dtype, 0.1)
    difference = (ours - theirs).abs().max().item()
    if difference <= tolerance * max(1.0, theirs.abs().max().item()):
        return ""
    return f"on this {model.cfg.architecture} it differs from the hooks engine by {difference:.1e}"


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
    if engine == "auto" or _other_than_masks(runs) is not None:
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


def tokens_in_flight(
    model: Model, prompts: Prompts, masks: Sequence[Mask], n_generated: int
) -> int:
    """How many tokens one prompt holds at once, over the clean run and all masked ones."""
    forced = append_targets(prompts) if not n_generated else prompts
    readout = torch.zeros_like(forced.segments, dtype=torch.bool)
    readout[:, -1] = True
    n_layers, n_heads, drop = int(model.cfg.n_layers), int(model.cfg.n_heads), can_drop(model)
    streams, _ = plan_streams(masks, forced.segments, readout, n_layers, n_heads, drop=drop)
    width, n_texts = forced.tokens.shape[1], 1 + sum(len(stream.starts) for stream in streams)
    masked = sum(len(stream.starts) * stream.keys().positions.shape[1] for stream in streams)
    generated = n_generated * n_texts
    if n_generated and not drop:
        width *= n_texts  # each text then has its own copy of the prompt's cache
    return width + masked + generated


def default_budget(model: Model, prompts: Prompts, cost: int) -> int:
    """The tokens that half of the free memory holds.

    Args:
        cost: of one prompt: the budget where a model's sizes are not to be told.
    """
    weights = list(model.original_model.parameters())
    device = weights[0].device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    try:
        costs = ModelCosts.of(model, at_most=True)
    except ModelError as error:
        warnings.warn(f"prompts run one by one, without a token_budget: {error}", stacklevel=2)
        return cost
    dtypes = (some.dtype for some in weights if some.is_floating_point())
    each = costs.token_bytes(prompts.tokens.shape[1], next(dtypes, torch.float32))
    return max(1, int(free / 2 / each))


def run_in_chunks(
    prompts: Prompts, cost: int, budget: int, batch_size: int, run: Callable[[Prompts], None]
) -> None:
    """Run batches that fit a budget; when memory runs out all the same, go on with half of it.

    Raises:
        PromptError: if the budget does not hold one prompt.
    """
    if budget < cost:
        raise PromptError(
            f"token_budget is {budget}, but one prompt with all its masked runs holds {cost} "
            "tokens at once: raise it, or sweep fewer conditions at a time"
        )
    size, start = min(batch_size, budget // cost, len(prompts)), 0
    while start < len(prompts):
        try:
            run(prompts[start : start + size])
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if size == 1 or not _is_out_of_memory(error):
                raise
            size = max(1, size // 2)
            continue
        start += size


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
