"""Which keys are hidden from which rows: the semantics of masks, as pure tensors.

A `ContextMask` names segments of the prompt (the keys to hide), layers, heads and rows; an
`EdgeMask` a rule for single cells. Nothing here knows a model; `icl_locate.hooks` carries these
tensors into its attention.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, overload

import torch
from jaxtyping import Bool, Int8
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.checks.arguments import check_choice, check_count, check_flag, check_items, refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked, whole
from icl_locate.errors import MaskError
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.edges import EdgeRule, Positions
from icl_locate.interventions.layers import (
    ALL_LAYERS,
    LayerRange,
    as_layers,
    as_pairs,
    check_heads,
    resolve_layers,
)
from icl_locate.interventions.segments import as_segments

Rows = Literal["all", "after"]


class _Joins(Intervention):
    """Masks joined with masks are a mask again."""

    @overload
    def __or__(self, other: "Mask") -> "MaskUnion": ...

    @overload
    def __or__(self, other: Intervention) -> Intervention: ...

    def __or__(self, other: Intervention) -> Intervention:
        if isinstance(self, Mask) and isinstance(other, Mask):
            return MaskUnion(parts_of(self) | parts_of(other))
        return super().__or__(other)


@short_repr("hide", "layers", "heads", "rows")
@dataclass(frozen=True)
class ContextMask(_Joins):
    """Hide segments of the context from attention.

    Attributes:
        hide: the segments whose tokens are hidden as keys: members of `Segment` or their names in
            any case; a single one may stand alone.
        layers: where: `from_layer`, `until_layer`, `only_layer`, `window`, any set of layers, or
            a single one.
        heads: the (layer, head) pairs to which the mask is limited; ``None`` means every head.
        rows: "all" query rows, or only those "after" the last hidden token of their prompt.
        keep_self: whether a row still sees its own token although its segment is hidden.
        hide_generated: how many of the first generated tokens are hidden, too.
        without_bias: whether a row that sees nothing gets no attention output at all; else the
            output projection's bias is left of it.

    Masks compose with ``|``: the union hides what any of them hides. So they do with interventions
    of other kinds.

    Raises:
        MaskError: if an argument is none of these.
    """

    hide: AbstractSet[Segment]
    layers: LayerRange | AbstractSet[int] = ALL_LAYERS
    heads: AbstractSet[tuple[int, int]] | None = None
    rows: Rows | str = "all"
    keep_self: bool = False
    hide_generated: int = 0
    without_bias: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hide", as_segments(self.hide))
        _tidy_places(self)
        check_choice("rows", self.rows, ("all", "after"), error=MaskError)
        for name in ("keep_self", "without_bias"):
            flag = check_flag(name, getattr(self, name), error=MaskError)
            object.__setattr__(self, name, flag)
        n = check_count("hide_generated", self.hide_generated, least=0, error=MaskError)
        object.__setattr__(self, "hide_generated", n)

    @property
    def hides_nothing(self) -> bool:
        """Whether it hides no segment at all."""
        return not self.hide


@short_repr("rule", "layers", "heads")
@dataclass(frozen=True, eq=False)  # a rule need not be hashable
class EdgeMask(_Joins):
    """Hide single edges of attention: the cells (row, key) that a rule names.

    The rule looks at the tokens themselves, those that the model has just generated included.

    Attributes:
        rule: takes the `Positions` so far and a number ``n``, and gives the cells hidden from the
            last ``n`` rows. What it says of padding and of keys behind their row does not matter.
        layers: where: `from_layer`, `until_layer`, `only_layer`, `window`, any set of layers, or
            a single one.
        heads: the (layer, head) pairs to which the mask is limited; ``None`` means every head.
    """

    rule: EdgeRule
    layers: LayerRange | AbstractSet[int] = ALL_LAYERS
    heads: AbstractSet[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        if not callable(self.rule):
            refuse("rule", self.rule, "a function of (positions, number of rows)", MaskError)
        _tidy_places(self)

    @property
    def hides_nothing(self) -> bool:
        """Whether it hides nothing whatever the tokens: never known of a rule."""
        return False

    @property
    def without_bias(self) -> bool:
        """Rows that see nothing keep the output projection's bias."""
        return False

    @checked(MaskError, n_rows=whole(1))
    def cells(self, positions: Positions, n_rows: int) -> Bool[Tensor, "batch query_pos key_pos"]:
        """The rule's cells for the last ``n_rows`` rows, without padding and future keys.

        Raises:
            MaskError: if the rule gave cells of another shape.
        """
        real = positions.segments != Segment.PAD
        batch, total = real.shape
        found: object = self.rule(positions, n_rows)
        if not (isinstance(found, Tensor) and found.dtype == torch.bool):
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise MaskError(f"the rule of an EdgeMask gave {kind}: expected a tensor of booleans")
        if found.shape != (batch, n_rows, total):
            raise MaskError(
                f"the rule of an EdgeMask gave cells of shape {tuple(found.shape)}: expected "
                f"(batch, rows, keys) = {(batch, n_rows, total)}"
            )
        places = torch.arange(total, device=real.device)
        past = places <= places[total - n_rows :, None]
        return found & real[:, total - n_rows :, None] & real[:, None, :] & past


@short_repr("masks")
@dataclass(frozen=True)
class MaskUnion(_Joins):
    """Several masks at once: a key is hidden where any of them hides it."""

    masks: frozenset[ContextMask | EdgeMask]

    def __post_init__(self) -> None:
        given = check_items("masks", self.masks, "a set of masks", error=MaskError)
        parts = frozenset[ContextMask | EdgeMask]().union(*map(parts_of, given))
        object.__setattr__(self, "masks", parts)

    @property
    def parts(self) -> tuple[Intervention, ...]:
        """The masks that it is made of."""
        return tuple(self.masks)


Mask = ContextMask | EdgeMask | MaskUnion


def parts_of(mask: Mask) -> frozenset[ContextMask | EdgeMask]:
    """The masks that a union is made of; any other mask is its own only part.

    Raises:
        MaskError: if it is no mask.
    """
    if isinstance(mask, MaskUnion):
        return mask.masks
    if not isinstance(mask, (ContextMask, EdgeMask)):
        hint = "other interventions are taken by icl_locate.intervene"
        refuse("mask", mask, "a ContextMask, an EdgeMask, or several joined by |", MaskError, hint)
    return frozenset({mask})


def as_mask(intervention: Intervention) -> Mask:
    """The mask that an intervention is which holds nothing else.

    Raises:
        MaskError: if a part of it is no mask.
    """
    if isinstance(intervention, Mask):
        return intervention
    parts: list[ContextMask | EdgeMask] = []
    for part in intervention.parts:
        if not isinstance(part, (ContextMask, EdgeMask)):
            refuse("mask", part, "a ContextMask, an EdgeMask, or several joined by |", MaskError)
        parts.append(part)
    return MaskUnion(frozenset(parts))


def _tidy_places(mask: ContextMask | EdgeMask) -> None:
    """Check layers and heads, and make them plain; called while a mask is made."""
    object.__setattr__(mask, "layers", as_layers(mask.layers))
    if mask.heads is not None:
        object.__setattr__(mask, "heads", as_pairs(mask.heads))


NOTHING = ContextMask(frozenset())
"""What is done to a model that runs as it is, beside runs to which something is."""


@dataclass(frozen=True)
class LayerMask:
    """What is left of a mask at one layer: the masks that act there, and on which heads.

    ``heads`` is ``None`` for all heads, else sorted head indices.
    """

    mask: ContextMask | EdgeMask
    heads: tuple[int, ...] | None


def resolve(mask: Mask, n_layers: int, n_heads: int) -> dict[int, tuple[LayerMask, ...]]:
    """The masks that act at each layer of a model; layers where nothing acts are left out.

    Raises:
        MaskError: if layers or heads are out of the model's range, or all heads of a mask are
            outside its layers.
    """
    acting: dict[int, list[LayerMask]] = {}
    for part in sorted(parts_of(mask), key=lambda part: repr(vars(part))):
        layers = resolve_layers(part.layers, n_layers)
        check_heads(part.heads or (), n_layers, n_heads)
        if part.heads and layers and not any(layer in layers for layer, _ in part.heads):
            raise MaskError(
                f"no head of the mask, such as {min(part.heads)}, lies in its layers, "
                f"{min(layers)} to {max(layers)}, so that it would do nothing: give heads=None for "
                "all heads of these layers, or layers that hold the heads"
            )
        if part.hides_nothing:
            continue
        for layer in sorted(layers):
            heads = None
            if part.heads is not None:
                heads = tuple(sorted(head for at, head in part.heads if at == layer))
                if not heads:
                    continue
            acting.setdefault(layer, []).append(LayerMask(part, heads))
    return {layer: tuple(masks) for layer, masks in acting.items()}


def check_segments(mask: Intervention, segments: Int8[Tensor, "batch pos"]) -> None:
    """Refuse an intervention whose masks hide a segment which a prompt does not have.

    A mask that hides all (with ``keep_self``, or ``without_bias``) may name what there is not.

    Raises:
        MaskError: naming the segment and the first prompt that lacks it.
    """
    for part in mask.parts:
        if not isinstance(part, ContextMask):
            continue
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
