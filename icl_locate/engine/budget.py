"""How much runs at once: tokens in flight against free memory, halved when that was too much."""

import warnings
from collections.abc import Callable, Sequence

import psutil
import torch

from icl_locate.engine.scoring import append_targets
from icl_locate.engine.shared.scoring import can_drop
from icl_locate.engine.shared.streams import plan_streams
from icl_locate.errors import ModelError, PromptError
from icl_locate.interventions.masks import Mask
from icl_locate.models.bridge import Model
from icl_locate.models.costs import ModelCosts
from icl_locate.prompts.tokens import Prompts


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
