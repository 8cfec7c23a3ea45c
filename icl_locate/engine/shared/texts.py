"""The texts that decode at one layer, and the cache that they share.

All cells of a prompt share one row of the batch and one cache: its keys are the prompt's clean
ones, those that each masked run computed for itself, and the generated ones. Query positions are
the texts: below their start, cells whose texts are equal so far are one computation. The mask shows
to each text what its run may see.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from icl_locate.engine.shared.replay import BlockCall, cache_with, first
from icl_locate.engine.shared.streams import CutMask, Rows, Stream


class LayerTexts:
    """The texts that are computed at one layer, and the cache that they share.

    A text's kind is 0 while it is clean, else its stream's number from 1.
    """

    def __init__(
        self,
        layer: int,
        cache: DynamicCache,
        streams: Sequence[Stream],
        *,
        columns: Int[Tensor, "row key"],
        kinds: Int[Tensor, "cell"],
        rows: Int[Tensor, "cell"],
        slots: Int[Tensor, "cell"],
        own: Bool[Tensor, "row slot key"],
        by_prompt: bool,
    ) -> None:
        """Begin with what the prefill left.

        Args:
            columns: where each key of a cache row stands in its prompt and text.
            kinds, rows, slots: each cell's kind, row of the cache, and place among its texts.
            own: the keys that each of a row's texts may see as far as its run is concerned.
            by_prompt: whether a prompt's texts share a row; else each text has one.
        """
        self._layer, self._cache, self._streams = layer, cache, streams
        self._columns, self._own = columns, own
        self._kinds, self._rows, self._slots = kinds, rows, slots
        self._by_prompt = by_prompt

    def keep(
        self,
        stays: Bool[Tensor, "cell"],
        texts: Int[Tensor, "alive"],
        prompts: Int[Tensor, "alive"],
    ) -> None:
        """Let cells go, and part those whose texts have become different.

        Args:
            stays: which cells stay.
            texts: a number for the text so far of each that stays, ascending by prompt.
            prompts: the prompt of each that stays.
        """
        n_cells = len(stays)
        self._kinds = self._kinds[stays]
        alone = n_cells + torch.arange(len(texts), device=texts.device)
        names = 2 * n_cells * prompts + torch.where(self._kinds > 0, alone, texts)
        ranks = torch.unique(names, return_inverse=True)[1]
        homes, rows = torch.unique(prompts if self._by_prompt else names, return_inverse=True)
        first = torch.full_like(homes, n_cells).scatter_reduce(0, rows, ranks, "amin")
        slots = ranks - first[rows]
        own = self._own.new_ones(len(homes), int(slots.max()) + 1, self._own.shape[-1])
        own[rows, slots] = self._own[self._rows[stays], self._slots[stays]]
        parents = torch.empty_like(homes)
        parents[rows] = self._rows[stays]
        if not parents.equal(torch.arange(len(self._columns), device=parents.device)):
            self._cache.layers[self._layer].batch_select_indices(parents)
            self._columns = self._columns[parents]
        self._prompts = prompts.new_empty(len(homes))
        self._prompts[rows] = prompts
        self._rows, self._slots, self._own = rows, slots, own

    def __call__(self, call: BlockCall) -> Float[Tensor, "alive 1 d_model"]:
        """One decoding step of the block for all cells."""
        n_rows, n_slots, _ = self._own.shape
        cells = torch.arange(len(self._rows), device=self._rows.device)
        a_cell = cells.new_empty(n_rows)  # of each row
        a_cell[self._rows] = cells
        shown = a_cell[:, None].repeat(1, n_slots)  # a cell of each slot; a row's last may be idle
        shown[self._rows, self._slots] = cells
        mask = call.attention_mask[a_cell]
        self._add_keys(n_slots, mask.shape[-1] - 1)

        def take_rows(value: Tensor) -> Tensor:
            rows = value.expand(len(cells), *value.shape[1:])[a_cell]
            return rows.expand(n_rows, n_slots, *value.shape[2:])

        def take_keys(value: Tensor) -> Tensor:
            columns = self._columns[:, None, None].expand(-1, *value.shape[1:3], -1)
            return value[a_cell].gather(-1, columns)

        cut = self._cut(mask)
        shown_hidden = call.hidden[shown][:, :, 0]
        output = call.rerun(shown_hidden, cut, self._cache, take_rows, take_keys)
        return first(output)[self._rows, self._slots][:, None]

    def _add_keys(self, n_new: int, column: int) -> None:
        """Let each text have one more key, all in the same column of their prompts."""
        n_rows = len(self._columns)
        itself = torch.eye(n_new, dtype=torch.bool, device=self._own.device)
        self._own = torch.cat([self._own, itself.expand(n_rows, -1, -1)], dim=-1)
        newest = self._columns.new_full((n_rows, n_new), column)
        self._columns = torch.cat([self._columns, newest], dim=-1)

    def _cut(self, mask: Float[Tensor, "row #head 1 key_pos"]) -> CutMask:
        """Each text's mask over the keys of its row's cache."""
        lowest = torch.finfo(mask.dtype).min
        n_rows, n_slots, _ = self._own.shape
        kinds = self._kinds.new_zeros(n_rows, n_slots)
        kinds[self._rows, self._slots] = self._kinds
        by_kind, silent = [mask[:, :, 0]], [False]
        for stream in self._streams:
            hidden = stream.hidden(self._layer, self._prompts, mask.shape[-1])
            by_kind.append(torch.where(hidden, lowest, mask)[:, :, 0])
            silent.append(stream.is_silent(self._layer))
        n_heads = max(some.shape[1] for some in by_kind)
        table = torch.stack([some.expand(-1, n_heads, -1) for some in by_kind], dim=1)
        rows = torch.arange(n_rows, device=kinds.device)[:, None]
        visible = table[rows, kinds].gather(
            -1, self._columns[:, None, None].expand(-1, n_slots, n_heads, -1)
        )
        visible = visible.masked_fill(~self._own[:, :, None], lowest).transpose(1, 2)
        return CutMask.of(visible, silent=torch.tensor(silent, device=kinds.device)[kinds])


def begin_texts(
    layer: int,
    clean: DynamicCache,
    active: Sequence[tuple[Tensor, Tensor] | None],
    streams: Sequence[Stream],
    room: int,
    *,
    by_prompt: bool,
) -> LayerTexts:
    """A layer's cells as the prefill left them, each with an empty text.

    Args:
        active: for each stream the keys and values that its runs computed, run by run.
        room: for how many new tokens of each text.
    """
    keys, values = [clean.layers[layer].keys], [clean.layers[layer].values]
    n_prompts, _, width, _ = keys[0].shape
    device = keys[0].device
    blocks = [torch.arange(width, device=device).expand(n_prompts, -1)]  # columns of a run's keys
    kinds: list[int] = []  # of each run
    places: list[int] = []  # the block of each run's own keys: 0 is the clean one
    for kind, (stream, computed) in enumerate(zip(streams, active, strict=True), start=1):
        running = stream.n_running(layer)
        if computed is not None:
            keys.append(computed[0])
            values.append(computed[1])
        for run in range(len(stream.starts)):
            kinds.append(kind if run < running else 0)
            places.append(len(blocks) if run < running else 0)
            blocks += [stream.active.positions] if run < running else []
    kinds.append(0)
    places.append(0)
    prompts = torch.arange(n_prompts, device=device)
    runs = torch.arange(len(kinds), device=device)
    if by_prompt:
        keys, values = (_beside(parts, n_prompts) for parts in (keys, values))
        rows, slots = prompts.repeat(len(runs)), runs.repeat_interleave(n_prompts)
        own = _visible(streams, kinds, places, blocks)
        columns, room = torch.cat(blocks, dim=1), room * len(runs)
    else:
        rows = (torch.tensor(places, device=device)[:, None] * n_prompts + prompts).flatten()
        slots = torch.zeros_like(rows)
        columns = torch.cat(blocks)
        own = torch.ones_like(columns[:, None], dtype=torch.bool)
    return LayerTexts(
        layer,
        cache_with(layer, torch.cat(keys), torch.cat(values), room),
        streams,
        columns=columns,
        kinds=torch.tensor(kinds, device=device).repeat_interleave(n_prompts),
        rows=rows,
        slots=slots,
        own=own,
        by_prompt=by_prompt,
    )


def _beside(parts: Sequence[Tensor], n_prompts: int) -> list[Tensor]:
    """Keys or values of runs ``[run * prompt, head, key, d]``, beside each other by prompt."""
    by_run = [run for part in parts for run in part.view(-1, n_prompts, *part.shape[1:])]
    return [torch.cat(by_run, dim=2)]


def _visible(
    streams: Sequence[Stream],
    kinds: Sequence[int],
    places: Sequence[int],
    blocks: Sequence[Int[Tensor, "prompt _"]],
) -> Bool[Tensor, "prompt run key"]:
    """The keys of a prompt that belong to each run: static ones are the clean run's."""
    ends = [0]
    for block in blocks:
        ends.append(ends[-1] + block.shape[1])
    own = torch.zeros(len(blocks[0]), len(kinds), ends[-1], dtype=torch.bool)
    own = own.to(blocks[0].device)
    static = [_chosen(stream.static, ends[1]) for stream in streams]
    for run, (kind, place) in enumerate(zip(kinds, places, strict=True)):
        own[:, run, : ends[1]] = True if kind == 0 else static[kind - 1]
        if kind:
            own[:, run, ends[place] : ends[place + 1]] = streams[kind - 1].active.valid
    return own


def _chosen(rows: Rows, width: int) -> Bool[Tensor, "prompt pos"]:
    """Which of ``width`` positions the rows are."""
    counts = torch.zeros(len(rows.positions), width, dtype=torch.long, device=rows.valid.device)
    return counts.scatter_add(1, rows.positions, rows.valid.long()) > 0
