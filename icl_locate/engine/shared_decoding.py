"""Generation by the shared engine: one prefill for all runs, which then decode as one batch.

A cell is one run of one prompt; cells are numbered run by run, and a run's by prompt. Below their
start the cells of one prompt continue its clean run: there each distinct text is computed once, and
all of a prompt's texts share one cache. A row of that batch is a prompt, its query positions are
the texts, and the mask shows to each text the generated keys that are its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import DynamicCache

from icl_locate.engine.decoding import Answers, check_room, resolve_stops
from icl_locate.engine.forward import keep_logits, require_numbers
from icl_locate.engine.replay import BlockCall, cache_with, replaced_blocks, with_first
from icl_locate.engine.shared import SharedPass, fits_keys, read_out, run_index
from icl_locate.engine.streams import CutMask, Rows, Stream, plan_streams
from icl_locate.masks import Mask
from icl_locate.tokens import Prompts


class Group:
    """The cells that are computed together at one layer: runs of a stream, or all still clean.

    Attributes:
        cells: their numbers, ascending.
    """

    def __init__(
        self,
        layer: int,
        cells: Int[Tensor, "cell"],
        rows: Int[Tensor, "cell"],
        cache: DynamicCache,
        stream: Stream | None,
        *,
        by_prompt: bool,
    ) -> None:
        """Begin with what the prefill left.

        Args:
            rows: each cell's row of the cache.
            by_prompt: whether the texts of a prompt share a row; else each text has its own.
        """
        self.cells = cells
        self._layer = layer
        self._cache = cache
        self._stream = stream
        self._by_prompt = by_prompt
        self._rows = rows
        self._slots = torch.zeros_like(rows)  # which of its row's texts is each cell's
        n_rows, _, n_keys, _ = cache.layers[layer].keys.shape
        self._own = torch.ones(n_rows, 1, n_keys, dtype=torch.bool, device=rows.device)
        self._columns = torch.arange(n_keys, device=rows.device)  # where each key stands in a text

    def keep(
        self,
        alive: Int[Tensor, "alive"],
        texts: Int[Tensor, "alive"],
        prompts: Int[Tensor, "alive"],
    ) -> None:
        """Let the cells go that are not alive, and part those whose texts have become different.

        Args:
            texts: a number for each alive cell's prompt and text so far, ascending by prompt.
            prompts: each alive cell's prompt.
        """
        stays = torch.isin(self.cells, alive)
        self.cells = self.cells[stays]
        at = torch.searchsorted(alive, self.cells)
        names = self.cells if self._stream else texts[at]
        ranks = torch.unique(names, return_inverse=True)[1]
        homes, rows = torch.unique(prompts[at] if self._by_prompt else names, return_inverse=True)
        first = torch.full_like(homes, len(ranks)).scatter_reduce(0, rows, ranks, "amin")
        slots = ranks - first[rows]
        n_slots = int(slots.max()) + 1 if len(slots) else 0
        own = self._own.new_ones(len(homes), n_slots, self._own.shape[-1])
        own[rows, slots] = self._own[self._rows[stays], self._slots[stays]]
        parents = torch.empty_like(homes)
        parents[rows] = self._rows[stays]
        if not parents.equal(torch.arange(len(self._own), device=parents.device)):
            self._cache.layers[self._layer].batch_select_indices(parents)
            self._stream = self._stream and _select(self._stream, parents)
        self._rows, self._slots, self._own = rows, slots, own

    def run(self, call: BlockCall, index: Int[Tensor, "cell"], mask: Tensor) -> Tensor:
        """One decoding step of the block for these cells, at ``index`` of the batch."""
        n_rows, n_slots, _ = self._own.shape
        a_cell = index.new_empty(n_rows)  # of each row
        a_cell[self._rows] = index
        cells = a_cell[:, None].repeat(1, n_slots)  # of each text; a row's last places may be idle
        cells[self._rows, self._slots] = index
        cut = CutMask(mask[a_cell], None)
        if self._stream is not None:
            cut = self._stream.cut(self._layer, cut.mask)
        itself = torch.eye(n_slots, dtype=torch.bool, device=index.device)
        self._own = torch.cat([self._own, itself.expand(n_rows, -1, -1)], dim=-1)
        newest = self._columns.new_full((n_slots,), cut.mask.shape[-1] - 1)
        self._columns = torch.cat([self._columns, newest])
        mask = cut.mask[..., self._columns].expand(-1, -1, n_slots, -1)
        mask = mask.masked_fill(~self._own[:, None], torch.finfo(mask.dtype).min)

        def take_rows(value: Tensor) -> Tensor:
            rows = value.expand(len(call.hidden), *value.shape[1:])[a_cell]
            return rows.expand(n_rows, n_slots, *value.shape[2:])

        def take_keys(value: Tensor) -> Tensor:
            value = value[a_cell]
            return (self._stream.cut_keys(value) if self._stream else value)[..., self._columns]

        cut = CutMask.of(mask, without_bias=cut.without_bias)
        hidden = call.rerun(call.hidden[cells][:, :, 0], cut, self._cache, take_rows, take_keys)
        return hidden[self._rows, self._slots][:, None]


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
    n_keys = width + len(logits) // n_prompts * max_new_tokens
    by_prompt = drop and fits_keys(model, n_keys)
    groups = [
        _groups_at(
            layer, streams, shared.caches[layer], cache, n_prompts, max_new_tokens, by_prompt
        )
        for layer in range(n_layers)
    ]
    answers = Answers(model, len(logits), stops)
    alive = torch.arange(len(logits), device=device)
    written = alive % n_prompts  # a number for each alive cell's prompt and text so far
    for n_generated in range(1, max_new_tokens + 1):
        step = require_numbers(logits[:, -1]).argmax(dim=-1)
        done = answers.extend(step, alive.tolist()).to(device)
        stays = ~done[alive]
        if n_generated == max_new_tokens or not stays.any():
            break
        alive, step, written = alive[stays], step[stays], written[stays]
        pairs = torch.stack([written, step], dim=1)
        written = torch.unique(pairs, dim=0, return_inverse=True)[1]
        for group in (group for at_layer in groups for group in at_layer):
            group.keep(alive, written, alive % n_prompts)
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
    by_prompt: bool,
) -> list[Group]:
    """Who shares a cache at a layer: each stream's started runs, and everything else."""
    own = clean.layers[layer]
    device = own.keys.device
    groups: list[Group] = []
    n_runs = sum(len(stream.starts) for stream in streams) + 1
    is_clean = torch.ones(n_runs * n_prompts, dtype=torch.bool, device=device)
    offset = 0
    for stream, cache in zip(streams, caches, strict=True):
        if cache is not None:
            rows = torch.arange(stream.n_running(layer) * n_prompts, device=device)
            is_clean[offset + rows] = False
            running = _select(stream, rows % n_prompts)
            groups.append(Group(layer, offset + rows, rows, cache, running, by_prompt=False))
        offset += len(stream.starts) * n_prompts
    cells = is_clean.nonzero()[:, 0]
    n_texts = len(cells) // n_prompts if by_prompt else 1
    shared = cache_with(layer, own.keys, own.values, room * n_texts)
    groups.append(Group(layer, cells, cells % n_prompts, shared, None, by_prompt=by_prompt))
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
