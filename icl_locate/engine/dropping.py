"""Dropping the context for good: from a layer on it is neither computed nor kept in the cache."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int8
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from icl_locate._types import Segment
from icl_locate.checks.arguments import check_count
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.choice import why_not_shared
from icl_locate.engine.shared.replay import BlockCall, first, replaced_blocks, with_first
from icl_locate.engine.shared.rows import CutMask, Rows
from icl_locate.engine.shared.scoring import can_drop
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks import hold
from icl_locate.hooks.padding import runs_of
from icl_locate.hooks.positions import RowCount, rows_dropped
from icl_locate.interventions.hidden import extend_segments
from icl_locate.interventions.segments import as_segments
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

CONTEXT = frozenset({Segment.INSTRUCTIONS, Segment.EXAMPLES})


@checked(MaskError, drop=anything)
@contextmanager
def drop_context(
    model: Model,
    prompts: Prompts,
    from_layer: int,
    *,
    drop: AbstractSet[Segment] = CONTEXT,
) -> Iterator["ContextDropper"]:
    """Drop the context's tokens from a layer on, inside a ``with``.

    Layers below ``from_layer`` read the whole prompt. From it on, only what is left (BOS, query,
    generated tokens) passes, at its original positions; the context is neither computed there nor
    stored in the cache. The tokens are those of a run under a mask that hides the same segments
    from the same layer on; the cost is not (Sia et al. 2024, section 5).

    Everything inside must run on ``prompts.tokens`` with ``prompts.attention_mask``, with a cache
    or without. Logits at dropped positions mean nothing. Interventions that ask which rows they see
    (masks, ablations by means or samples) act below ``from_layer`` alone: from it on they are
    refused.

    Args:
        from_layer: 0 to ``n_layers``, which drops nothing.
        drop: the segments to drop; those that a prompt lacks do not matter.

    Raises:
        ModelError: where dropping is not exact: a model that masks by index (GPT-Neo), or whose
            blocks cannot be run on other rows; use a mask there.
        MaskError: if the layer is out of range, or the query or padding were to be dropped.
    """
    n_layers = int(model.cfg.n_layers)
    from_layer = check_count("from_layer", from_layer, least=0, most=n_layers, error=MaskError)
    drop = as_segments(drop, name="drop")
    if not drop <= CONTEXT | {Segment.BOS}:
        names = ", ".join(sorted(segment.name for segment in drop))
        raise MaskError(f"drop is {names}: expected some of BOS, INSTRUCTIONS and EXAMPLES")
    why_not = why_not_shared(model)
    if not why_not and not can_drop(model):
        why_not = "its attention masks by index, so that tokens cannot change their places"
    if why_not:
        raise ModelError(
            f"the context cannot be dropped from this {model.cfg.architecture}: {why_not}; hide it "
            "with a ContextMask, which gives the same answers without the savings"
        )
    rows = RowCount(prompts.attention_mask, "drop_context", runs_of(prompts))
    segments = prompts.segments.to(model.cfg.device)
    dropper = ContextDropper(n_layers, segments, from_layer, drop, rows)
    with hold(model, rows.note), replaced_blocks(model, dropper), rows_dropped(model, from_layer):
        yield dropper


class ContextDropper:
    """Runs the blocks from a layer on, on the rows that are left."""

    def __init__(
        self,
        n_layers: int,
        segments: Int8[Tensor, "batch pos"],
        start: int,
        drop: AbstractSet[Segment],
        rows: RowCount,
    ) -> None:
        self._count = rows
        self._last, self._segments, self._start = n_layers - 1, segments, start
        self._dropped = torch.tensor([int(segment) for segment in drop], device=segments.device)
        self._kept = self._rows(segments)
        self._hidden: Tensor | None = None

    def __call__(self, call: BlockCall) -> Any:
        """Run one block: as it is below the start, else on the rows that are left."""
        if call.layer == 0:
            self._begin(call)
        if call.layer < self._start:
            return call.run()
        return self._step(call) if self._count.start else self._prefill(call)

    @property
    def _total(self) -> int:
        """How many positions there are now: a whole text's, or new ones behind the cache's."""
        return self._count.end

    def _begin(self, call: BlockCall) -> None:
        n = call.hidden.shape[1]
        self._count.reach(n, call.attention_mask.shape[-1])
        self._count.require(len(call.hidden))
        if not self._count.start:
            self._kept = self._rows(extend_segments(self._segments, n))

    def _rows(self, segments: Int8[Tensor, "batch pos"]) -> Rows:
        stays: Bool[Tensor, "batch pos"] = segments != Segment.PAD
        return Rows.where(stays & ~torch.isin(segments.long(), self._dropped))

    def _prefill(self, call: BlockCall) -> Any:
        """The kept rows of a whole text; the other rows pass by as they are."""
        if call.layer == self._start or self._hidden is None:
            self._hidden = self._kept.take(call.hidden)
        mask = self._kept.take(self._kept.take(call.attention_mask, dim=2), dim=3)
        cache = self._open_cache(call)
        output = call.rerun(
            self._hidden,
            self._cut(mask),
            cache,
            take_rows=self._kept.take,
            take_keys=lambda value: self._kept.take(value, dim=3),
        )
        self._hidden = first(output)
        if call.layer < self._last:
            return with_first(output, call.hidden)
        places = self._kept.positions.masked_fill(~self._kept.valid, self._total)
        whole = call.hidden.new_zeros(len(places), self._total + 1, call.hidden.shape[-1])
        whole.scatter_(1, places[..., None].expand_as(self._hidden), self._hidden)
        self._hidden = None
        return with_first(output, whole[:, :-1])

    def _step(self, call: BlockCall) -> Any:
        """New rows behind the cache."""
        mask, width = call.attention_mask, self._total_at_prefill(call)
        if mask.shape[-1] != self._total:
            raise ModelError(
                f"layer {call.layer} shows {mask.shape[-1]} of {self._total} positions: this cache "
                "drops old keys by itself; pass past_key_values=DynamicCache()"
            )

        def take_keys(value: Tensor) -> Tensor:
            return torch.cat([self._kept.take(value, dim=3), value[..., width:]], dim=3)

        cut = self._cut(take_keys(mask))
        return call.rerun(call.hidden, cut, call.cache, lambda value: value, take_keys)

    def _cut(self, mask: Tensor) -> CutMask:
        """The mask without the places that only fill up rows of unequal length."""
        valid = torch.nn.functional.pad(
            self._kept.valid, (0, mask.shape[-1] - self._kept.valid.shape[1]), value=True
        )
        return CutMask.of(mask.masked_fill(~valid[:, None, None], torch.finfo(mask.dtype).min))

    def _total_at_prefill(self, call: BlockCall) -> int:
        layer = call.cache.layers[call.layer]
        if not isinstance(layer, _KeptLayer):
            raise ModelError(
                "new tokens were run behind a cache that holds the whole context: run the prompts "
                "themselves first, inside the same drop_context"
            )
        return layer.width

    def _open_cache(self, call: BlockCall) -> DynamicCache:
        """The model's own cache, made ready to take the kept rows alone at this layer."""
        if not call.caches:
            return DynamicCache()
        cache = call.cache
        while len(cache.layers) <= call.layer:
            cache.layers.append(DynamicLayer())
        cache.layers[call.layer] = _KeptLayer(self._total)
        return cache


class _KeptLayer(DynamicLayer):  # type: ignore[misc]
    """The keys and values of some positions, which tells the length of the whole text.

    A model derives positions and masks from the length.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self._n_new = width, 0

    def update(self, key_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values: first the kept ones of the prompt, then new ones."""
        self._n_new += key_states.shape[-2] if self.is_initialized else 0
        found: tuple[Tensor, Tensor] = super().update(key_states, *args, **kwargs)
        return found

    def get_seq_length(self) -> int:
        """How many positions there are, dropped ones included."""
        return self.width + self._n_new if self.is_initialized else 0
