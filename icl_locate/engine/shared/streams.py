"""Which rows of a masked run must be computed: the rest is the clean run's, or reaches nothing.

Above its start layer a mask splits a prompt's positions into three. Static rows stand in front of
the first hidden key: they are the clean run's, and serve as keys from its cache. Active rows come
behind it and are visible, or are read out: they are computed. Hidden rows that are not read out
reach nothing, and are dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.hidden import extend_segments, hidden_by_head, hidden_keys
from icl_locate.interventions.layers import LayerRange
from icl_locate.interventions.masks import (
    ContextMask,
    EdgeMask,
    LayerMask,
    Mask,
    parts_of,
    resolve,
)


class NotSharedError(Exception):
    """The shared engine is not exact here; the "hooks" engine must run."""


@dataclass(frozen=True)
class Rows:
    """Positions of each prompt, padded with position 0 where ``valid`` is False."""

    positions: Int[Tensor, "batch kept"]
    valid: Bool[Tensor, "batch kept"]

    @classmethod
    def where(cls, chosen: Bool[Tensor, "batch pos"]) -> "Rows":
        """The chosen positions of each prompt, in order."""
        counts = chosen.sum(dim=1)
        width = int(counts.max())
        order = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        valid = torch.arange(width, device=chosen.device) < counts[:, None]
        return cls(order.masked_fill(~valid, 0), valid)

    def copies(self, n: int) -> "Rows":
        """The same rows for ``n`` copies of the batch."""
        return Rows(self.positions.repeat(n, 1), self.valid.repeat(n, 1))

    def take(self, values: Tensor, dim: int = 1) -> Tensor:
        """``values`` at these positions of dimension ``dim``; dimension 0 is the batch, or 1."""
        if values.shape[0] == 1:
            values = values.expand(len(self.positions), *values.shape[1:])
        shape = [1] * values.ndim
        shape[0], shape[dim] = self.positions.shape
        sizes = list(values.shape)
        sizes[dim] = self.positions.shape[1]
        return values.gather(dim, self.positions.view(shape).expand(sizes))


@dataclass(frozen=True)
class CutMask:
    """An attention mask for some rows, and the rows that it leaves without any visible key.

    Attributes:
        silent: rows that, left so by every head, get no attention output, not even a bias.
    """

    mask: Float[Tensor, "batch #head active key_pos"]
    empty: Bool[Tensor, "batch #head active"] | None
    silent: Bool[Tensor, "batch active"] | None = None

    @classmethod
    def of(
        cls,
        mask: Float[Tensor, "batch #head active key_pos"],
        silent: Bool[Tensor, "batch active"] | None = None,
    ) -> "CutMask":
        """The mask, and its empty rows where there are any."""
        empty = mask.amax(dim=-1) <= torch.finfo(mask.dtype).min / 2
        if not empty.any():
            return cls(mask, None)
        return cls(mask, empty, None if silent is None else silent & empty.all(dim=1))

    def copies(self, n: int) -> "CutMask":
        """The same mask for ``n`` copies of the batch."""
        if n == 1:
            return self
        empty = None if self.empty is None else self.empty.repeat(n, 1, 1)
        silent = None if self.silent is None else self.silent.repeat(n, 1)
        return CutMask(self.mask.repeat(n, 1, 1, 1), empty, silent)


@dataclass(frozen=True)
class Stream:
    """Masked runs that differ in their start layer alone, and so keep the same rows.

    Attributes:
        starts: the start layers, ascending.
        masks: what acts at each layer from the first start on.
        static, active: the rows that are taken from the clean run, and those that are computed.
        segments: of the prompts.
    """

    starts: tuple[int, ...]
    masks: dict[int, tuple[LayerMask, ...]]
    static: Rows
    active: Rows
    segments: Int8[Tensor, "batch pos"]
    n_heads: int

    def n_running(self, layer: int) -> int:
        """How many of its runs have started at a layer."""
        return sum(start <= layer for start in self.starts)

    def keys(self) -> Rows:
        """The keys that active rows may see: static ones, then active ones."""
        return Rows(
            torch.cat([self.static.positions, self.active.positions], dim=1),
            torch.cat([self.static.valid, self.active.valid], dim=1),
        )

    def place_of(self, rows: Rows) -> Rows:
        """Where these positions, all of them active, stand among the active rows."""
        same = rows.positions[:, :, None] == self.active.positions[:, None, :]
        same &= self.active.valid[:, None, :]
        return Rows(same.int().argmax(dim=-1), rows.valid)

    def hidden(
        self, layer: int, prompts: Int[Tensor, "row"], total: int
    ) -> Bool[Tensor, "row #head 1 key_pos"]:
        """What the newest of ``total`` positions may not see at a layer, for some prompts."""
        positions = Positions(extend_segments(self.segments[prompts], total))
        return hidden_by_head(self.masks.get(layer, ()), positions, 1, self.n_heads)

    def is_silent(self, layer: int) -> bool:
        """Whether rows that see nothing at a layer get no attention output at all."""
        return any(acting.mask.without_bias for acting in self.masks.get(layer, ()))

    def cut(self, layer: int, mask: Float[Tensor, "batch #head pos pos"]) -> CutMask:
        """Cut a mask of the whole prompt to the rows and keys that are kept."""
        lowest, keys = torch.finfo(mask.dtype).min, self.keys()
        acting = self.masks.get(layer, ())
        positions = Positions(self.segments)
        hidden = hidden_by_head(acting, positions, mask.shape[-1], self.n_heads)
        visible = (
            mask.masked_fill(hidden, lowest)
            if hidden.shape[1] == 1
            else torch.where(hidden, lowest, mask)
        )
        kept = keys.take(self.active.take(visible, dim=2), dim=3)
        kept = kept.masked_fill(~keys.valid[:, None, None, :], lowest)
        silent = torch.ones_like(self.active.valid) if self.is_silent(layer) else None
        return CutMask.of(kept, silent)


def plan_streams(
    masks: Sequence[Mask],
    segments: Int8[Tensor, "batch pos"],
    readout: Bool[Tensor, "batch pos"],
    n_layers: int,
    n_heads: int,
    *,
    drop: bool,
) -> tuple[list[Stream], list[tuple[int, int] | None]]:
    """The streams that serve some masks, and where each mask stands in them.

    Masks that hide the same segments from some layer on share a stream, which drops what it can;
    any other mask, or every one if ``drop`` is False, keeps all rows and shares the layers below
    its first.

    Returns:
        The streams, and for each mask its (stream, run), or ``None`` if it hides nothing.

    Raises:
        NotSharedError: if a mask hides edges, which depend on each run's own tokens.
    """
    if any(isinstance(part, EdgeMask) for mask in masks for part in parts_of(mask)):
        raise NotSharedError("an EdgeMask hides what each run's own tokens say")
    groups: dict[Mask, list[int]] = {}
    keyed: list[tuple[Mask, int] | None] = []
    for mask in masks:
        layers = sorted(resolve(mask, n_layers, n_heads))
        if not layers:
            keyed.append(None)
            continue
        key: Mask = mask
        upwards = layers == list(range(layers[0], n_layers))
        if isinstance(mask, ContextMask) and mask.heads is None and upwards:
            key = replace(mask, layers=LayerRange(0))
        groups.setdefault(key, []).append(layers[0])
        keyed.append((key, layers[0]))
    streams: list[Stream] = []
    order = list(groups)
    for key, starts in groups.items():
        runs = tuple(sorted(set(starts)))
        streams.append(_plan_stream(key, runs, segments, readout, n_layers, n_heads, drop=drop))
    places = [
        None
        if at is None
        else (order.index(at[0]), streams[order.index(at[0])].starts.index(at[1]))
        for at in keyed
    ]
    return streams, places


def _plan_stream(
    mask: Mask,
    starts: tuple[int, ...],
    segments: Int8[Tensor, "batch pos"],
    readout: Bool[Tensor, "batch pos"],
    n_layers: int,
    n_heads: int,
    *,
    drop: bool,
) -> Stream:
    layers = resolve(mask, n_layers, n_heads)
    kept = _droppable(mask, segments, readout) if drop else None
    if kept is None:
        nowhere = torch.zeros_like(readout)
        kept = nowhere, ~nowhere
    return Stream(starts, layers, Rows.where(kept[0]), Rows.where(kept[1]), segments, n_heads)


def _droppable(
    mask: Mask, segments: Int8[Tensor, "batch pos"], readout: Bool[Tensor, "batch pos"]
) -> tuple[Tensor, Tensor] | None:
    """The static and the active rows, or ``None`` if all rows must be kept."""
    if not isinstance(mask, ContextMask) or mask.heads is not None or mask.layers != LayerRange(0):
        return None
    real, hidden = segments != Segment.PAD, hidden_keys(mask, segments)
    unchanged = hidden.cumsum(dim=1) == 0
    if mask.rows == "after":
        in_prompt = hidden & (segments != Segment.GENERATED)
        unchanged = in_prompt.flip(1).cumsum(dim=1).flip(1) > 0
        if (unchanged & readout).any():
            return None  # such a row is read out, and still sees the hidden keys
    return real & unchanged & ~hidden & ~readout, real & ((~unchanged & ~hidden) | readout)
