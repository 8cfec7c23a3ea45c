"""What runs do, layer by layer: the cells that they hide, and their edits of states."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from icl_locate.hooks.edits import edits_of
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.edits import Edit
from icl_locate.interventions.hidden import extend_segments, hidden_by_head
from icl_locate.interventions.layers import ALL_LAYERS
from icl_locate.interventions.masks import (
    ContextMask,
    EdgeMask,
    LayerMask,
    MaskUnion,
    resolve,
)
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts


@dataclass(frozen=True)
class Hiding:
    """The masks that act at a layer; equal ones hide the same cells at any layer."""

    masks: tuple[LayerMask, ...] = field(compare=False)
    key: frozenset[Any]

    @classmethod
    def of(cls, masks: Sequence[LayerMask]) -> "Hiding":
        """What some masks of a layer hide."""
        return cls(tuple(masks), frozenset(map(_key, masks)))

    @property
    def silences(self) -> bool:
        """Whether rows that see nothing get no attention output at all."""
        return any(acting.mask.without_bias for acting in self.masks)

    @property
    def by_tokens(self) -> bool:
        """Whether what is hidden depends on the tokens."""
        return any(isinstance(acting.mask, EdgeMask) for acting in self.masks)

    def cells(
        self, positions: Positions, n_rows: int, n_heads: int
    ) -> Bool[Tensor, "batch #head query_pos key_pos"]:
        """The cells that are hidden from the last ``n_rows`` rows."""
        return hidden_by_head(self.masks, positions, n_rows, n_heads)

    def by_any_and_all(
        self, positions: Positions, n_heads: int
    ) -> tuple[Bool[Tensor, "batch query_pos key_pos"], Bool[Tensor, "batch query_pos key_pos"]]:
        """The cells that some head hides, and those that every head does; no head's of its own."""
        n_rows = positions.segments.shape[1]
        anywhere = [replace(acting, heads=None) for acting in self.masks]
        by_any = hidden_by_head(anywhere, positions, n_rows, n_heads)[:, 0]
        if all(acting.heads is None for acting in self.masks):
            return by_any, by_any
        named = {head for acting in self.masks for head in acting.heads or range(n_heads)}
        if len(named) < n_heads:
            return by_any, torch.zeros_like(by_any)
        return by_any, self.cells(positions, n_rows, n_heads).all(dim=1)

    def later(self, positions: Positions, n_heads: int) -> Bool[Tensor, "batch key_pos"]:
        """The keys that every head hides from all tokens yet to be generated, whatever they are."""
        sure = [acting for acting in self.masks if not isinstance(acting.mask, EdgeMask)]
        behind = extend_segments(positions.segments, positions.segments.shape[1] + 1)
        return hidden_by_head(sure, Positions(behind), 1, n_heads).all(dim=1)[:, 0, :-1]


def _key(acting: LayerMask) -> tuple[Any, ...]:
    """The same for masks that hide the same cells of a layer."""
    mask = acting.mask
    if isinstance(mask, ContextMask):
        return replace(mask, layers=ALL_LAYERS, heads=None), acting.heads
    try:
        hash(mask.rule)
    except TypeError:
        return id(mask.rule), acting.heads
    return mask.rule, acting.heads


@dataclass(frozen=True)
class Acts:
    """What a run does.

    Attributes:
        hiding: what is hidden at each layer where anything is.
        entering: edits of the residual stream that enters a layer; that which leaves the last one
            enters layer ``n_layers``.
        inside: edits within a layer.
        key: equal for runs that do the same.
    """

    hiding: Mapping[int, Hiding]
    entering: Mapping[int, tuple[Edit, ...]]
    inside: Mapping[int, tuple[Edit, ...]]
    key: Any = None

    @classmethod
    def of(
        cls,
        masks: Iterable[ContextMask | EdgeMask],
        edits: Sequence[Edit],
        n_layers: int,
        n_heads: int,
        key: Any = None,
    ) -> "Acts":
        """What some masks and edits do to a model of so many layers and heads.

        Raises:
            MaskError: if a mask does not fit the model.
        """
        hidden = resolve(MaskUnion(frozenset(masks)), n_layers, n_heads)
        hiding = {layer: Hiding.of(acting) for layer, acting in hidden.items()}
        entering: dict[int, tuple[Edit, ...]] = {}
        inside: dict[int, tuple[Edit, ...]] = {}
        for edit in sorted(edits, key=lambda edit: edit.point != "resid_post"):
            if edit.point in ("resid_pre", "resid_post"):
                layer, found = edit.layer + (edit.point == "resid_post"), entering
            else:
                layer, found = edit.layer, inside
            found[layer] = (*found.get(layer, ()), edit)
        return cls(hiding, entering, inside, (frozenset(hiding.items()), key))

    @property
    def start(self) -> int | None:
        """The first layer that differs (``n_layers``: what is read out); ``None`` if none does."""
        return min((*self.hiding, *self.entering, *self.inside), default=None)


def acts_of(model: Model, prompts: Prompts, intervention: Intervention) -> Acts:
    """What an intervention does to a model on some prompts.

    Raises:
        MaskError: if it fits neither the model nor the prompts.
    """
    masks = [part for part in intervention.parts if isinstance(part, (ContextMask, EdgeMask))]
    others = frozenset(part for part in intervention.parts if part not in masks)
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    return Acts.of(masks, edits_of(model, prompts, intervention), n_layers, n_heads, others)


def positions_of(prompts: Prompts) -> Positions:
    """What a planner may look at, on the machine's own memory."""
    return Positions.of(prompts)


def continued(positions: Positions, written: Tensor, some: Tensor) -> Positions:
    """The positions of some prompts with tokens behind them ``[row, new]``."""
    total = positions.segments.shape[1] + written.shape[1]
    if positions.tokens is None:
        return Positions(extend_segments(positions.segments[some], total))
    chosen = positions.take(some)
    return chosen.behind(torch.cat([positions.tokens[some], written], dim=1))
