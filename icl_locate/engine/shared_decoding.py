"""Generation by the shared engine: one prefill for all runs, which then decode as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import DynamicCache

from icl_locate.engine.decoding import Answers, check_room, resolve_stops
from icl_locate.engine.forward import keep_logits, require_numbers
from icl_locate.engine.replay import BlockCall, cache_with, replaced_blocks, with_first
from icl_locate.engine.shared import SharedPass, read_out, run_index
from icl_locate.engine.streams import CutMask, Rows, Stream, plan_streams
from icl_locate.masks import Mask
from icl_locate.tokens import Prompts


@dataclass
class Group:
    """The cells that share a cache at one layer: runs of a stream, or all that are still clean.

    A cell is one run of one prompt; cells are numbered run by run, and a run's by prompt.
    """

    layer: int
    cells: Int[Tensor, "cell"]
    cache: DynamicCache
    stream: Stream | None

    def keep(self, alive: Tensor) -> None:
        """Let the cells go that are not alive."""
        stays = torch.isin(self.cells, alive)
        if not stays.all():
            self.cells = self.cells[stays]
            self.cache.layers[self.layer].batch_select_indices(stays.nonzero()[:, 0])
            if self.stream is not None:
                self.stream = _select(self.stream, stays)

    def run(self, call: BlockCall, index: Tensor, mask: Tensor) -> Tensor:
        """One decoding step of the block for these cells, at ``index`` of the batch."""
        stream, n_batch = self.stream, len(call.hidden)
        cut = CutMask(mask[index], None) if stream is None else stream.cut(self.layer, mask[index])

        def take_rows(value: Tensor) -> Tensor:
            return value.expand(n_batch, *value.shape[1:])[index]

        def take_keys(value: Tensor) -> Tensor:
            if stream is None:
                return value[index]
            n_prompt = stream.segments.shape[1]
            prompt = stream.keys().take(value[index][..., :n_prompt], dim=3)
            return torch.cat([prompt, value[index][..., n_prompt:]], dim=-1)

        return call.rerun(call.hidden[index], cut, self.cache, take_rows, take_keys)


class DecodingStep:
    """Runs every block of one decoding step for all groups of cells.

    ``form`` is an output of a block, a tensor or a tuple, whose form is given back.
    """

    def __init__(
        self, groups: Sequence[Sequence[Group]], alive: Int[Tensor, "cell"], form: Any
    ) -> None:
        self._groups = groups
        self._form = form
        self._index = [
            [torch.searchsorted(alive, group.cells) for group in at_layer] for at_layer in groups
        ]

    def __call__(self, call: BlockCall) -> Any:
        """Run one block; the model's own call is not made."""
        mask = call.attention_mask
        output = torch.empty_like(call.hidden)
        for group, index in zip(self._groups[call.layer], self._index[call.layer], strict=True):
            if len(index):
                output[index] = group.run(call, index, mask)
        return with_first(self._form, output)


@torch.no_grad()
def generate_many(
    model: TransformerBridge,
    prompts: Prompts,
    masks: Sequence[Mask],
    max_new_tokens: int = 50,
    stop: str | Sequence[str] | None = None,
    *,
    drop: bool = True,
) -> list[list[str]]:
    """Greedy answers to each prompt under each mask: one prefill, one decoding batch.

    Returns:
        ``answers[mask][prompt]``, equal to those of `generate` with each mask.

    Raises:
        PromptError: as `generate` does.
        NotSharedError: if the model's blocks cannot be run on other rows.
        NumericalError: if the model gives NaN.
    """
    stops = resolve_stops(prompts, stop)
    check_room(model, prompts, max_new_tokens)
    device, n_layers = model.cfg.device, int(model.cfg.n_layers)
    segments = prompts.segments.to(device)
    attention_mask = prompts.attention_mask.long().to(device)
    n_prompts, width = segments.shape
    readout = torch.zeros_like(segments, dtype=torch.bool)
    readout[:, -1] = True
    streams, places = plan_streams(
        masks, segments, readout, n_layers, int(model.cfg.n_heads), drop=drop
    )
    shared = SharedPass(n_layers, streams, Rows.where(readout), room=max_new_tokens)
    cache = DynamicCache()
    with replaced_blocks(model, shared):
        model(
            prompts.tokens.to(device),
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **keep_logits(model, 1),
        )
    logits = read_out(model, shared.readout)
    groups = [
        _groups_at(layer, streams, shared.caches[layer], cache, n_prompts, max_new_tokens)
        for layer in range(n_layers)
    ]
    answers = Answers(model, len(logits), stops)
    alive = torch.arange(len(logits), device=device)
    for n_generated in range(1, max_new_tokens + 1):
        step = require_numbers(logits[:, -1]).argmax(dim=-1)
        done = answers.extend(step, alive.tolist()).to(device)
        stays = ~done[alive]
        if n_generated == max_new_tokens or not stays.any():
            break
        alive, step = alive[stays], step[stays]
        for group in (group for at_layer in groups for group in at_layer):
            group.keep(alive)
        seen = torch.nn.functional.pad(attention_mask[alive % n_prompts], (0, n_generated), value=1)
        with replaced_blocks(model, DecodingStep(groups, alive, shared.readout)):
            logits = model(
                step[:, None],
                attention_mask=seen,
                past_key_values=_length_only(len(alive), width + n_generated - 1, n_layers, device),
                use_cache=True,
            )
    texts = answers.texts()
    n_runs = len(texts) // n_prompts
    by_run = [texts[run * n_prompts : (run + 1) * n_prompts] for run in range(n_runs)]
    return [by_run[run_index(streams, place)] for place in places]


def _groups_at(
    layer: int,
    streams: Sequence[Stream],
    caches: Sequence[DynamicCache | None],
    clean: DynamicCache,
    n_prompts: int,
    room: int,
) -> list[Group]:
    """Who shares a cache at a layer: each stream's started runs, and everything else."""
    device = streams[0].segments.device if streams else clean.layers[layer].keys.device
    groups: list[Group] = []
    n_runs = sum(len(stream.starts) for stream in streams) + 1
    is_clean = torch.ones(n_runs * n_prompts, dtype=torch.bool, device=device)
    offset = 0
    for stream, cache in zip(streams, caches, strict=True):
        if cache is not None:
            cells = offset + torch.arange(stream.n_running(layer) * n_prompts, device=device)
            is_clean[cells] = False
            groups.append(Group(layer, cells, cache, _select(stream, cells % n_prompts)))
        offset += len(stream.starts) * n_prompts
    cells = is_clean.nonzero()[:, 0]
    own = clean.layers[layer]
    prompt = cells % n_prompts
    groups.append(
        Group(layer, cells, cache_with(layer, own.keys[prompt], own.values[prompt], room), None)
    )
    return groups


def _select(stream: Stream, index: Tensor) -> Stream:
    """The stream with its prompts picked, one for each cell."""

    def pick(rows: Rows) -> Rows:
        return Rows(rows.positions[index], rows.valid[index])

    return replace(
        stream,
        static=pick(stream.static),
        active=pick(stream.active),
        segments=stream.segments[index],
    )


def _length_only(
    n_cells: int, length: int, n_layers: int, device: torch.device | str
) -> DynamicCache:
    """A cache with a length and nothing else: a model derives its masks and positions from it."""
    cache = DynamicCache()
    nothing = torch.zeros(1, 1, length, 1, device=device).expand(n_cells, 1, length, 1)
    for layer in range(n_layers):
        cache.update(nothing, nothing, layer)
    return cache
