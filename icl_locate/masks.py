"""Which keys are hidden from which rows: the semantics of a context mask, as pure tensors.

A mask names segments of the prompt (the keys to hide), layers, heads and rows. Nothing here knows a
model; `icl_locate.hooks` carries these tensors into its attention.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int8
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.errors import MaskError

Rows = Literal["all", "after"]


@dataclass(frozen=True)
class LayerRange:
    """The layers ``start <= layer < stop``; ``stop=None`` means up to the last layer."""

    start: int
    stop: int | None = None

    def resolve(self, n_layers: int) -> frozenset[int]:
        """The layers of a model with ``n_layers``.

        Raises:
            MaskError: if the range reaches outside ``0..n_layers``.
        """
        stop = n_layers if self.stop is None else self.stop
        if not 0 <= self.start <= stop <= n_layers:
            raise MaskError(
                f"layers {self.start} to {stop} are out of range: the model has layers 0 to "
                f"{n_layers - 1}, and a mask may start at 0 to {n_layers}"
            )
        return frozenset(range(self.start, stop))


def from_layer(layer: int) -> LayerRange:
    """Layer ``layer`` and all above it; ``from_layer(n_layers)`` masks nothing (Sia24 §3)."""
    return LayerRange(layer)


def until_layer(layer: int) -> LayerRange:
    """All layers below ``layer``; ``until_layer(0)`` masks nothing."""
    return LayerRange(0, layer)


def only_layer(layer: int) -> LayerRange:
    """The one layer ``layer``."""
    return LayerRange(layer, layer + 1)


def window(layer: int, width: int) -> LayerRange:
    """The ``width`` layers ``layer .. layer + width - 1``."""
    return LayerRange(layer, layer + width)


@dataclass(frozen=True)
class ContextMask:
    """Hide segments of the context from attention.

    Attributes:
        hide: the segments whose tokens are hidden as keys.
        layers: where: `from_layer`, `until_layer`, `only_layer`, `window`, or any set of layers.
        heads: the (layer, head) pairs to which the mask is limited; ``None`` means every head.
        rows: "all" query rows, or only those "after" the last hidden token of their prompt.
        keep_self: whether a row still sees its own token although its segment is hidden.
        hide_generated: how many of the first generated tokens are hidden, too.
        without_bias: whether a row that sees nothing gets no attention output at all; else the
            output projection's bias is left of it.

    Masks compose with ``|``: the union hides what any of them hides.
    """

    hide: AbstractSet[Segment]
    layers: LayerRange | AbstractSet[int] = LayerRange(0)
    heads: AbstractSet[tuple[int, int]] | None = None
    rows: Rows | str = "all"
    keep_self: bool = False
    hide_generated: int = 0
    without_bias: bool = False

    def __post_init__(self) -> None:
        if Segment.PAD in self.hide:
            raise MaskError("hide holds Segment.PAD: padding is always hidden, leave it out")
        if self.rows not in ("all", "after"):
            raise MaskError(f"rows is {self.rows!r}: expected 'all' or 'after'")
        object.__setattr__(self, "hide", frozenset(Segment(s) for s in self.hide))
        if not isinstance(self.layers, LayerRange):
            object.__setattr__(self, "layers", frozenset(self.layers))
        if self.heads is not None:
            object.__setattr__(self, "heads", frozenset(self.heads))

    @property
    def masks(self) -> frozenset["ContextMask"]:
        """The masks that this one is composed of: itself."""
        return frozenset({self})

    def __or__(self, other: "Mask") -> "MaskUnion":
        return MaskUnion(self.masks | other.masks)


@dataclass(frozen=True)
class MaskUnion:
    """Several masks at once: a key is hidden where any of them hides it."""

    masks: frozenset[ContextMask]

    def __or__(self, other: "Mask") -> "MaskUnion":
        return MaskUnion(self.masks | other.masks)


Mask = ContextMask | MaskUnion


@dataclass(frozen=True)
class LayerMask:
    """What is left of a mask at one layer: the masks that act there, and on which heads.

    ``heads`` is ``None`` for all heads, else sorted head indices.
    """

    mask: ContextMask
    heads: tuple[int, ...] | None


def resolve(mask: Mask, n_layers: int, n_heads: int) -> dict[int, tuple[LayerMask, ...]]:
    """The masks that act at each layer of a model; layers where nothing acts are left out.

    Raises:
        MaskError: if layers or heads are out of the model's range.
    """
    acting: dict[int, list[LayerMask]] = {}
    for part in sorted(mask.masks, key=repr):
        layers = _resolve_layers(part.layers, n_layers)
        _check_heads(part.heads or (), n_layers, n_heads)
        if not part.hide:
            continue
        for layer in sorted(layers):
            heads = None
            if part.heads is not None:
                heads = tuple(sorted(head for at, head in part.heads if at == layer))
                if not heads:
                    continue
            acting.setdefault(layer, []).append(LayerMask(part, heads))
    return {layer: tuple(masks) for layer, masks in acting.items()}


def _resolve_layers(layers: LayerRange | AbstractSet[int], n_layers: int) -> frozenset[int]:
    if isinstance(layers, LayerRange):
        return layers.resolve(n_layers)
    outside = sorted(layer for layer in layers if not 0 <= layer < n_layers)
    if outside:
        raise MaskError(
            f"layer {outside[0]} is out of range: the model has layers 0 to {n_layers - 1}"
        )
    return frozenset(layers)


def _check_heads(heads: Iterable[tuple[int, int]], n_layers: int, n_heads: int) -> None:
    for layer, head in sorted(heads):
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise MaskError(
                f"head (layer {layer}, head {head}) is out of range: the model has layers 0 to "
                f"{n_layers - 1} and heads 0 to {n_heads - 1}"
            )


def check_segments(mask: Mask, segments: Int8[Tensor, "batch pos"]) -> None:
    """Refuse a mask that hides a segment which a prompt does not have.

    A mask that hides all (with ``keep_self``, or ``without_bias``) may name what there is not.

    Raises:
        MaskError: naming the segment and the first prompt that lacks it.
    """
    for part in mask.masks:
        optional = {Segment.GENERATED}
        if part.keep_self:
            optional |= {Segment.BOS}
        if part.without_bias:
            optional |= set(Segment)
        for segment in sorted(part.hide - optional):
            absent = ~(segments == segment).any(dim=1)
            if absent.any():
                raise MaskError(
                    f"the mask hides {segment.name}, but prompt {int(absent.nonzero()[0])} has no "
                    "such tokens: build prompts that hold this segment, or do not hide it"
                )


def extend_segments(
    segments: Int8[Tensor, "batch pos"], total: int
) -> Int8[Tensor, "batch key_pos"]:
    """The segments of ``total`` positions: the prompt's, then GENERATED."""
    return torch.nn.functional.pad(
        segments, (0, total - segments.shape[1]), value=int(Segment.GENERATED)
    )


def hidden_keys(
    mask: ContextMask, segments: Int8[Tensor, "batch key_pos"]
) -> Bool[Tensor, "batch key_pos"]:
    """The keys that the mask hides."""
    hide = torch.zeros(len(Segment), dtype=torch.bool, device=segments.device)
    hide[[int(segment) for segment in mask.hide]] = True
    hidden = hide[segments.long()]
    if mask.hide_generated:
        generated = segments == Segment.GENERATED
        hidden |= generated & (generated.cumsum(dim=1) <= mask.hide_generated)
    return hidden


def masked_rows(
    mask: ContextMask, segments: Int8[Tensor, "batch key_pos"]
) -> Bool[Tensor, "batch query_pos"]:
    """The query rows that the mask acts on; padding is never one of them."""
    real = segments != Segment.PAD
    if mask.rows == "all":
        return real
    hidden = hidden_keys(mask, segments) & (segments != Segment.GENERATED)
    behind_it = hidden.flip(-1).cumsum(-1).flip(-1)  # hidden keys at this position or later
    return real & (behind_it == 0)


def hidden_cells(
    mask: ContextMask, segments: Int8[Tensor, "batch key_pos"], n_rows: int
) -> Bool[Tensor, "batch query_pos key_pos"]:
    """The cells (row, key) that the mask hides, for the last ``n_rows`` rows.

    Only causally possible cells are named: a key behind its row stays as the model left it.
    """
    total = segments.shape[1]
    keys = hidden_keys(mask, segments)
    rows = masked_rows(mask, segments)[:, total - n_rows :]
    positions = torch.arange(total, device=segments.device)
    past = positions <= positions[total - n_rows :, None]
    if mask.keep_self:
        past &= positions != positions[total - n_rows :, None]
    return rows[:, :, None] & keys[:, None, :] & past


def hidden_by_head(
    masks: Sequence[LayerMask], segments: Int8[Tensor, "batch key_pos"], n_rows: int, n_heads: int
) -> Bool[Tensor, "batch #head query_pos key_pos"]:
    """The cells that any of a layer's masks hides; one head stands for all where all are alike."""
    everywhere = all(mask.heads is None for mask in masks)
    shape = segments.shape[0], 1 if everywhere else n_heads, n_rows, segments.shape[1]
    hidden = torch.zeros(shape, dtype=torch.bool, device=segments.device)
    for mask in masks:
        heads = slice(None) if mask.heads is None else list(mask.heads)
        hidden[:, heads] |= hidden_cells(mask.mask, segments, n_rows)[:, None]
    return hidden
