"""One pass up the layers: the clean run, and every other with the rows of it that differ."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from icl_locate.engine.progress import Tell, silent
from icl_locate.engine.shared.group import Group, Sight
from icl_locate.engine.shared.layout import Keys, Layout
from icl_locate.engine.shared.plan import Plan
from icl_locate.engine.shared.replay import BlockCall, cache_with, first, with_first
from icl_locate.engine.shared.rows import CutMask, Rows
from icl_locate.hooks.heads import split_heads
from icl_locate.hooks.holding import NamedHook
from icl_locate.hooks.points import HOOKS
from icl_locate.interventions.edits import Edit, Where

_AT_ONCE = {"cpu": 2048}  # rows that go through a block in one call: more leave a CPU's cache
_AT_ONCE_ELSEWHERE = 65_536


class SharedPass:
    """Runs every block for the clean run and for all others; keeps what is to be read out.

    Attributes:
        own: for each layer, the keys and values that each run computed there, by its number. Empty
            unless caches are kept.
        readout: the last block's output with the readout rows of all runs, the clean one last.
    """

    def __init__(
        self,
        plan: Plan,
        readout: Rows,
        n_heads: int,
        *,
        keeps_caches: bool = False,
        beside: bool = True,
        tell: Tell = silent,
    ) -> None:
        """Begin below the first layer.

        Args:
            beside: whether runs may lie beside each other, which brings keys out of their order.
        """
        self.plan, self._rows, self._n_heads = plan, readout, n_heads
        self._keeps_caches, self._beside, self._tell = keeps_caches, beside, tell
        self._hidden: dict[int, tuple[Rows, Tensor]] = {}
        self._wheres: dict[Rows, Where] = {}
        self._cuts: dict[Sight, dict[tuple[Rows, int], tuple[Tensor, CutMask]]] = {}
        every = enumerate(plan.groups)
        self._last = {group.sight: layer for layer, some in every for group in some}
        self.own: list[dict[int, Keys]] = []
        self.readout: Any = None

    def __call__(self, call: BlockCall) -> Any:
        """Run one block."""
        n_layers = len(self.plan.groups)
        mask = call.attention_mask
        clean_input = call.hidden
        output = call.run()
        clean = call.cache.layers[call.layer]
        taken: dict[int, Tensor] = {}
        hidden, own = dict[int, tuple[Rows, Tensor]](), dict[int, Keys]()
        for group in self.plan.groups[call.layer]:
            if not group.active.width:
                continue
            enter = partial(self._enter, clean=clean_input, layer=call.layer, taken=taken)
            entering = [enter(run, group.active) for run in group.runs]
            feeding = [enter(run, group.feeding) for run in group.runs if group.feeding.width]
            for some in self._portions(group):
                self._run(call, group, some, entering, feeding, mask, clean, hidden, own)
            if self._last[group.sight] == call.layer:
                self._cuts.pop(group.sight, None)
        self._hidden = hidden
        if self._keeps_caches:
            self.own.append(own)
        else:
            call.cache.layers[call.layer] = DynamicLayer()  # nobody will ask for it again
        self._tell((call.layer + 1) / n_layers)
        if call.layer == n_layers - 1:
            self.readout = with_first(output, self._gather(first(output)))
        return output

    def _portions(self, group: Group) -> list[range]:
        """A group's runs in portions that go through the block at once."""
        n_rows = (group.feeding.width + group.active.width) * len(group.active.positions)
        device = group.active.positions.device
        at_once = _AT_ONCE.get(device.type, _AT_ONCE_ELSEWHERE) // n_rows
        return group.portions(max(1, at_once))

    def _lie_beside(self, group: Group) -> bool:
        return self._beside and group.lies_beside

    def _run(
        self,
        call: BlockCall,
        group: Group,
        some: range,
        entering: Sequence[Tensor],
        feeding: Sequence[Tensor],
        mask: Tensor,
        clean: Any,
        hidden: dict[int, tuple[Rows, Tensor]],
        own: dict[int, Keys],
    ) -> None:
        """One block for some runs of a group, whose outputs and keys are noted."""
        runs = [group.runs[i] for i in some]
        layout = Layout(len(runs), group, group.active, self._lie_beside(group))
        keys, values = layout.static(clean.keys), layout.static(clean.values)
        if group.feeding.width:
            fed = self._feed(call, group, some, mask, feeding)
            keys, values = (
                torch.cat(pair, dim=2) for pair in zip((keys, values), fed, strict=True)
            )
        room = group.active.width * (len(runs) if layout.beside else 1)
        cache = cache_with(call.layer, keys, values, room)
        output = call.rerun(
            layout.join(torch.stack([entering[i] for i in some])),
            layout.cut(self._cut(group, group.active, mask)),
            cache,
            take_rows=layout.take_rows,
            take_keys=layout.take_keys,
            hooks=self._hooks(call, runs, layout),
        )
        for run, value in zip(runs, layout.split(first(output)), strict=True):
            hidden[run] = group.active, value
        if self._keeps_caches:
            computed = cache.layers[call.layer]
            pairs = (layout.own_keys(computed.keys), layout.own_keys(computed.values))
            for run, keys, values in zip(runs, *pairs, strict=True):
                own[run] = keys.clone(), values.clone()

    def _feed(
        self,
        call: BlockCall,
        group: Group,
        some: range,
        mask: Tensor,
        entering: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The keys and values of some runs' feeding rows."""
        layout = Layout(len(some), group, group.feeding)
        return call.feed(
            layout.join(torch.stack([entering[i] for i in some])),
            layout.cut(self._cut(group, group.feeding, mask)),
            layout.take_rows,
            layout.take_keys,
        )

    def _enter(
        self, run: int, rows: Rows, clean: Tensor, layer: int, taken: dict[int, Tensor]
    ) -> Float[Tensor, "batch active d_model"]:
        """A run's residual stream at some rows before a layer: its own, or the clean run's."""
        if id(rows) not in taken:
            taken[id(rows)] = rows.take(clean)
        value = taken[id(rows)]
        if run in self._hidden:
            mine, states = self._hidden[run]
            if mine is rows:
                value = states
            else:
                places, found = rows.places_in(mine)
                width = (-1, -1, states.shape[-1])
                value = torch.where(
                    found[..., None], states.gather(1, places[..., None].expand(width)), value
                )
        return self.edited(self.plan.acts[run].entering.get(layer, ()), value, rows)

    def edited(self, edits: Sequence[Edit], value: Tensor, rows: Rows) -> Tensor:
        """A run's values at some rows, as edits leave them."""
        for edit in edits:
            value = edit(value, lambda: self._where(rows))
        return value

    def _where(self, rows: Rows) -> Where:
        if rows not in self._wheres:
            positions = rows.positions.cpu()
            places = (positions - self.plan.padding).clamp(min=0)
            self._wheres[rows] = Where(torch.arange(len(positions)), positions, places)
        return self._wheres[rows]

    def _hooks(self, call: BlockCall, runs: Sequence[int], layout: Layout) -> list[NamedHook]:
        """The hooks that edit some runs' states within a block."""
        points: dict[str, list[tuple[int, Edit]]] = {}
        for i, run in enumerate(runs):
            for edit in self.plan.acts[run].inside.get(call.layer, ()):
                points.setdefault(HOOKS[edit.point].format(call.layer), []).append((i, edit))
        heads = partial(split_heads, call.model)
        return [(name, _EditRuns(self, layout, some, heads)) for name, some in points.items()]

    def _cut(self, group: Group, rows: Rows, mask: Tensor) -> CutMask:
        """A group's cut of a mask, made once for all layers that are given the same one."""
        cuts = self._cuts.setdefault(group.sight, {})
        key = rows, mask.data_ptr()
        if key not in cuts:
            cuts[key] = mask, self._cut_anew(group, rows, mask)  # held: its address stays
        return cuts[key][1]

    def _cut_anew(
        self, group: Group, rows: Rows, mask: Float[Tensor, "batch #head pos pos"]
    ) -> CutMask:
        lowest, keys = torch.finfo(mask.dtype).min, group.keys_of(rows)

        def kept(cells: Tensor) -> Tensor:
            return keys.take(rows.take(cells, dim=2), dim=3)

        visible = kept(mask)
        if group.hiding.masks:
            positions = self.plan.positions
            cells = group.hiding.cells(positions, mask.shape[-1], self._n_heads).to(mask.device)
            visible = torch.where(kept(cells), lowest, visible)
        visible = visible.masked_fill(~keys.valid[:, None, None, :], lowest)
        silences = torch.ones_like(rows.valid) if group.hiding.silences else None
        return CutMask.of(visible, silences)

    def _gather(self, clean: Tensor) -> Float[Tensor, "row readout d_model"]:
        taken: dict[int, Tensor] = {}
        n_layers = len(self.plan.groups)
        found = [
            self._enter(run, self._rows, clean, n_layers, taken) for run in range(self.plan.n_runs)
        ]
        return torch.cat([*found, self._rows.take(clean)])


class _EditRuns:
    """A hook that edits the states of some runs of a call."""

    def __init__(
        self,
        shared: SharedPass,
        layout: Layout,
        edits: Sequence[tuple[int, Edit]],
        heads: Callable[[Tensor], Tensor],
    ) -> None:
        self._shared, self._layout, self._edits, self._heads = shared, layout, edits, heads

    def __call__(self, value: Tensor, hook: object) -> Tensor:  # noqa: ARG002
        value = value.clone()
        by_run, rows = self._layout.split(value), self._layout.group.active
        for i, edit in self._edits:
            split = self._heads(by_run[i]) if edit.point == "z" else by_run[i]
            edited = self._shared.edited([edit], split, rows)
            if edited is not split:  # an edit may touch none of these rows
                by_run[i] = edited.reshape(by_run[i].shape)
        return value
