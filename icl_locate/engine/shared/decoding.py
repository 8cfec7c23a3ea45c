"""Generation by the shared engine: one prefill for all runs, which then decode as one batch.

A cell is one run of one prompt; cells are numbered run by run, and a run's by prompt.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from icl_locate.engine.decoding import Answers, check_room, resolve_stops
from icl_locate.engine.forward import keep_logits, require_numbers
from icl_locate.engine.progress import Tell, part, silent
from icl_locate.engine.shared.replay import BlockCall, replaced_blocks, with_first
from icl_locate.engine.shared.scoring import SharedPass, read_out, run_index
from icl_locate.engine.shared.streams import Rows, plan_streams
from icl_locate.engine.shared.texts import LayerTexts, begin_texts
from icl_locate.interventions.masks import Mask
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

_PREFILL = 0.3  # a guess at its share of the work, for progress bars


def generate_many(
    model: Model,
    prompts: Prompts,
    masks: Sequence[Mask],
    max_new_tokens: int = 50,
    stop: str | Sequence[str] | None = None,
    *,
    drop: bool = True,
    tell: Tell = silent,
) -> list[list[str]]:
    """Greedy answers to each prompt under each mask: one prefill, one decoding batch.

    Args:
        tell: told how much of the work is done.

    Returns:
        ``answers[mask][prompt]``, equal to those of `generate` with each mask.

    Raises:
        PromptError: as `generate` does.
        NotSharedError: if the model's blocks cannot be run on other rows.
        NumericalError: if the model gives NaN.
    """
    stops = resolve_stops(prompts, stop)
    check_room(model, prompts, max_new_tokens)
    if not drop:
        return _generate(model, prompts, masks, max_new_tokens, stops, tell, drop=False)
    found: list[list[str]] = []
    sizes = {name: int(getattr(model.cfg, name)) for name in ("n_layers", "n_heads", "d_model")}
    for some in portions(prompts, masks, max_new_tokens, **sizes):
        share = part(tell, len(found) / len(masks), (len(found) + len(some)) / len(masks))
        found += _generate(model, prompts, some, max_new_tokens, stops, share, drop=True)
    return found


def portions(
    prompts: Prompts,
    masks: Sequence[Mask],
    n_new: int,
    *,
    n_layers: int,
    n_heads: int,
    d_model: int,
) -> list[list[Mask]]:
    """The masks in portions whose keys together keep attention cheaper than the rest of a layer."""
    segments = prompts.segments
    readout = torch.zeros_like(segments, dtype=torch.bool)
    readout[:, -1] = True
    streams, places = plan_streams(masks, segments, readout, n_layers, n_heads, drop=True)
    width, limit = segments.shape[1], 4 * d_model
    found: list[list[Mask]] = [[]]
    held: set[tuple[int, int]] = set()
    n_keys = width
    for mask, place in zip(masks, places, strict=True):
        more = 0
        if place is not None and place not in held:
            more = streams[place[0]].active.positions.shape[1] + n_new
        if found[-1] and more and n_keys + more > limit:
            found.append([])
            held, n_keys = set(), width
        found[-1].append(mask)
        held |= {place} if place is not None else set()
        n_keys += more
    return found


@torch.no_grad()
def _generate(
    model: Model,
    prompts: Prompts,
    masks: Sequence[Mask],
    max_new_tokens: int,
    stops: Sequence[str],
    tell: Tell,
    *,
    drop: bool,
) -> list[list[str]]:
    device, n_layers = model.cfg.device, int(model.cfg.n_layers)
    segments, n_prompts = prompts.segments.to(device), len(prompts)
    readout = torch.zeros_like(segments, dtype=torch.bool)
    readout[:, -1] = True
    streams, places = plan_streams(
        masks, segments, readout, n_layers, int(model.cfg.n_heads), drop=drop
    )
    prefill, decoding = part(tell, 0.0, _PREFILL), part(tell, _PREFILL, 1.0)
    shared = SharedPass(n_layers, streams, Rows.where(readout), keeps_caches=True, tell=prefill)
    cache = _prefill(model, prompts, shared)
    layers = [
        begin_texts(layer, cache, shared.active[layer], streams, max_new_tokens, by_prompt=drop)
        for layer in range(n_layers)
    ]
    logits = read_out(model, shared.readout)
    answers = Answers(model, len(logits), stops, as_text=prompts.as_text)
    _decode(model, prompts, shared, layers, logits, answers, max_new_tokens, decoding)
    found = answers.texts()
    by_run = [found[i : i + n_prompts] for i in range(0, len(found), n_prompts)]
    return [by_run[run_index(streams, place)] for place in places]


def _prefill(model: Model, prompts: Prompts, shared: SharedPass) -> DynamicCache:
    """Run the prompts once, and all masked rows with them; returns the clean run's cache."""
    cache = DynamicCache()
    with replaced_blocks(model, shared):
        model(
            prompts.tokens.to(model.cfg.device),
            attention_mask=prompts.attention_mask.long().to(model.cfg.device),
            past_key_values=cache,
            use_cache=True,
            **keep_logits(model, 1),
        )
    return cache


def _decode(
    model: Model,
    prompts: Prompts,
    shared: SharedPass,
    layers: Sequence[LayerTexts],
    logits: Float[Tensor, "cell one d_vocab"],
    answers: Answers,
    max_new_tokens: int,
    tell: Tell,
) -> None:
    """Let all cells write, token by token, as one batch of those that are not done."""
    device, (n_prompts, width) = model.cfg.device, prompts.tokens.shape
    attention_mask = prompts.attention_mask.long().to(device)
    n_texts = len(logits)
    alive = torch.arange(n_texts, device=device)
    written = alive % n_prompts  # a number for each alive cell's prompt and text so far
    for n_generated in range(1, max_new_tokens + 1):
        step = require_numbers(logits[:, -1]).argmax(dim=-1)
        done = answers.extend(step, alive.tolist()).to(device)
        stays = ~done[alive]
        tell(max(1 - int(stays.sum()) / n_texts, n_generated / max_new_tokens))
        if n_generated == max_new_tokens or not stays.any():
            break
        alive, step = alive[stays], step[stays]
        pairs = torch.stack([written[stays], step], dim=1)
        written = torch.unique(pairs, dim=0, return_inverse=True)[1]
        for texts in layers:
            texts.keep(stays, written, alive % n_prompts)
        seen = torch.nn.functional.pad(attention_mask[alive % n_prompts], (0, n_generated), value=1)
        length = width + n_generated - 1
        with replaced_blocks(model, partial(_step, shared, layers)):
            logits = model(
                step[:, None],
                attention_mask=seen,
                past_key_values=_length_only(len(alive), length, len(layers), device),
                use_cache=True,
            )


def _step(shared: SharedPass, layers: Sequence[LayerTexts], call: BlockCall) -> Any:
    """One block's newest rows, over each cell's own keys."""
    return with_first(shared.readout, layers[call.layer](call))


def _length_only(
    n_cells: int, length: int, n_layers: int, device: torch.device | str
) -> DynamicCache:
    """A cache with a length and nothing else: a model derives its masks and positions from it."""
    cache = DynamicCache()
    nothing = torch.zeros(1, 1, length, 1, device=device).expand(n_cells, 1, length, 1)
    for layer in range(n_layers):
        cache.update(nothing, nothing, layer)
    return cache
