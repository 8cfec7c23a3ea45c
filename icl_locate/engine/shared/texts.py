"""The texts that decode at one layer, and the cache that they share.

Cells of a prompt may share one row of the batch and one cache: its keys are the prompt's clean
ones, those that each run computed for itself, and the generated ones. Query positions are the
texts: below their start, cells whose texts are equal so far are one computation. The mask shows to
each text what its run may see. Where runs compute most of a prompt's keys, each text has a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from icl_locate.engine.shared.acts import Hiding, continued
from icl_locate.engine.shared.plan import Plan
from icl_locate.engine.shared.replay import BlockCall, first
from icl_locate.engine.shared.rows import CutMask, NotSharedError
from icl_locate.hooks.heads import split_heads
from icl_locate.hooks.points import HOOKS
from icl_locate.interventions.edits import Edit, Point, Where


@dataclass(frozen=True)
class Cells:
    """The cells that have not ended.

    Attributes:
        runs, prompts: of each, by number; the clean run's is the last.
        texts: a number for each one's prompt and text so far, ascending by prompt.
        written: the tokens of each so far.
    """

    runs: Int[Tensor, "alive"]
    prompts: Int[Tensor, "alive"]
    texts: Int[Tensor, "alive"]
    written: Int[Tensor, "alive new"]
    _found: dict[Hiding, Tensor] = field(default_factory=dict, repr=False)
    _mine: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _wheres: dict[int, Where] = field(default_factory=dict, repr=False)

    def keep(self, stays: Bool[Tensor, "alive"], new: Int[Tensor, "alive"]) -> "Cells":
        """Those that stay, each with a new token."""
        pairs = torch.stack([self.texts[stays], new[stays]], dim=1)
        texts = torch.unique(pairs, dim=0, return_inverse=True)[1]
        written = torch.cat([self.written, new[:, None]], dim=1)[stays]
        return Cells(self.runs[stays], self.prompts[stays], texts, written)

    def edited(
        self, edits: Mapping[int, Sequence[Edit]], plan: Plan, values: Float[Tensor, "alive *rest"]
    ) -> Float[Tensor, "alive *rest"]:
        """Values of the newest rows, as the edits of each cell's run leave them."""
        for run, some in edits.items():
            if run not in self._mine:
                self._mine[run] = (self.runs == run).nonzero()[:, 0]
            mine = self._mine[run]
            if len(mine):
                value = values[mine][:, None]
                for edit in some:
                    value = edit(value, partial(self._where, plan, run))
                values = values.index_copy(0, mine, value[:, 0])
        return values

    def hidden(
        self, hiding: Hiding, plan: Plan, n_heads: int
    ) -> Bool[Tensor, "alive #head key_pos"]:
        """What some masks hide from each cell's newest token; found once for all layers."""
        if hiding not in self._found:
            shown, written = self.prompts.cpu(), self.written.cpu()
            back = torch.arange(len(shown))
            if not hiding.by_tokens:  # then it depends on the prompt alone
                shown, back = torch.unique(shown, return_inverse=True)
                written = written[:1].expand(len(shown), -1)
            cells = hiding.cells(continued(plan.positions, written, shown), 1, n_heads)
            self._found[hiding] = cells[back, :, 0].to(self.runs.device)
        return self._found[hiding]

    def _where(self, plan: Plan, run: int) -> Where:
        if run not in self._wheres:
            prompts = self.prompts[self._mine[run]].cpu()
            newest = plan.positions.segments.shape[1] + self.written.shape[1] - 1
            positions = torch.full_like(prompts, newest)[:, None]
            self._wheres[run] = Where(prompts, positions, positions - plan.padding[prompts])
        return self._wheres[run]


class LayerTexts:
    """The texts that are computed at one layer, and the cache that they share.

    A text's kind is 0 while it is clean, else its group's number from 1.
    """

    def __init__(
        self,
        layer: int,
        cache: DynamicCache,
        plan: Plan,
        n_heads: int,
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
        self._layer, self._cache, self._plan, self._n_heads = layer, cache, plan, n_heads
        self._columns, self._own = columns, own
        self._kinds, self._rows, self._slots = kinds, rows, slots
        self._by_prompt = by_prompt
        every = enumerate(plan.acts)
        self._entering = plan.entering(layer)
        inside = {run: acts.inside[layer] for run, acts in every if layer in acts.inside}
        self._inside = _by_point(inside)

    def keep(self, stays: Bool[Tensor, "cell"], cells: Cells) -> None:
        """Let cells go, and part those whose texts have become different.

        Args:
            stays: which cells stay.
            cells: those.
        """
        n_cells, prompts, texts = len(stays), cells.prompts, cells.texts
        self._kinds, self._cells = self._kinds[stays], cells
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

        hidden = self._cells.edited(self._entering, self._plan, call.hidden[:, 0])
        output = call.rerun(
            hidden[shown],
            self._cut(mask),
            self._cache,
            take_rows,
            take_keys,
            [
                (HOOKS[point].format(self._layer), partial(self._edit, call, point, edits))
                for point, edits in self._inside.items()
            ],
        )
        return first(output)[self._rows, self._slots][:, None]

    def _edit(
        self,
        call: BlockCall,
        point: Point,
        edits: Mapping[int, Sequence[Edit]],
        value: Tensor,
        hook: object,  # noqa: ARG002
    ) -> Tensor:
        """The newest rows' states at a point of the block, as each cell's run leaves them."""
        if value.shape[:2] != self._own.shape[:2]:
            raise NotSharedError(f"a point gives values of shape {tuple(value.shape)}")
        places = self._rows, self._slots
        shown = value[places]
        split = split_heads(call.model, shown[:, None])[:, 0] if point == "z" else shown
        edited = self._cells.edited(edits, self._plan, split)
        return value.index_put(places, edited.reshape(shown.shape))

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
        hidden, silences = self._hidden(n_slots, mask.shape[-1])
        n_heads = max(mask.shape[1], 1 if hidden is None else hidden.shape[2])
        visible = mask[:, :, 0][:, None].expand(n_rows, n_slots, n_heads, -1)
        if hidden is not None:
            visible = torch.where(hidden, lowest, visible)
        columns = self._columns[:, None, None].expand(-1, n_slots, n_heads, -1)
        visible = visible.gather(-1, columns).masked_fill(~self._own[:, :, None], lowest)
        return CutMask.of(visible.transpose(1, 2), silences)

    def _hidden(
        self, n_slots: int, total: int
    ) -> tuple[Bool[Tensor, "row slot #head key_pos"] | None, Bool[Tensor, "row slot"] | None]:
        """What each text's run hides from its newest token; and which runs silence empty rows."""
        n_rows = len(self._own)
        hidden: Tensor | None = None
        silences = self._own.new_zeros(n_rows, n_slots)
        for kind, group in enumerate(self._plan.groups[self._layer], start=1):
            mine = (self._kinds == kind).nonzero()[:, 0]
            if not group.hiding.masks or not len(mine):
                continue
            place = self._rows[mine], self._slots[mine]
            found = self._cells.hidden(group.hiding, self._plan, self._n_heads)[mine]
            if hidden is None:
                hidden = self._own.new_zeros(n_rows, n_slots, found.shape[1], total)
            elif hidden.shape[2] < found.shape[1]:
                hidden = hidden.repeat(1, 1, found.shape[1], 1)
            hidden[place] = found
            silences[place] = group.hiding.silences
        return hidden, silences if silences.any() else None


def _by_point(edits: Mapping[int, Sequence[Edit]]) -> dict[Point, dict[int, list[Edit]]]:
    """The edits of each run, by the points that they edit."""
    found: dict[Point, dict[int, list[Edit]]] = {}
    for run, some in edits.items():
        for edit in some:
            found.setdefault(edit.point, {}).setdefault(run, []).append(edit)
    return found
