"""The cells that a mask hides, layer by layer, while a model runs forward or generates."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.hooks.holding import NamedHook
from icl_locate.hooks.positions import RowCount
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.hidden import extend_segments, hidden_by_head
from icl_locate.interventions.masks import EdgeMask, LayerMask


class CellTracker:
    """Answers, for each attention call, which of its cells are hidden."""

    def __init__(
        self,
        prompts: Positions,
        layers: Mapping[int, tuple[LayerMask, ...]],
        n_heads: int,
        rows: RowCount | None = None,
    ) -> None:
        """Begin with no call.

        Args:
            rows: the count of positions; ``None`` makes one that sees the attention calls alone.
        """
        self.layers = layers
        self._prompts = prompts
        if rows is None:
            rows = RowCount(prompts.segments != Segment.PAD, "a mask")
        self._rows = rows
        self._tokens = prompts.segments.new_zeros(len(prompts.segments), 0, dtype=torch.long)
        self._n_heads = n_heads
        self._shape: tuple[int, ...] = ()
        self._computed: dict[tuple[LayerMask, ...], Tensor] = {}

    def cells(
        self, layer: int, batch: int, n_queries: int, n_keys: int
    ) -> Bool[Tensor, "batch #head query_pos key_pos"]:
        """The hidden cells of one attention call at a layer, whose masks' heads are 1 if all alike.

        Raises:
            MaskError: if the model runs on another batch, or on fewer tokens than the prompts have;
                inside a `drop_context` that drops rows there.
        """
        total = self._rows.reach(n_queries, n_keys, layer)
        self._rows.require(batch)
        shape = (n_queries, n_keys, total)
        if shape != self._shape:  # no two calls of a run have the same, but for its layers
            self._shape, self._computed = shape, {}
        masks = self.layers[layer]
        if masks not in self._computed:
            self._computed[masks] = self._compute(masks, *shape)
        return self._computed[masks]

    def _compute(
        self, masks: tuple[LayerMask, ...], n_queries: int, n_keys: int, total: int
    ) -> Bool[Tensor, "batch #head query_pos key_pos"]:
        if self._prompts.words is not None and self._tokens.shape[1] >= total:
            positions = self._prompts.behind(self._tokens[:, self._tokens.shape[1] - total :])
        else:
            positions = Positions(extend_segments(self._prompts.segments, total))
        hidden = hidden_by_head(masks, positions, n_queries, self._n_heads)
        if n_keys <= total:
            return hidden[..., total - n_keys :]
        return torch.nn.functional.pad(hidden, (0, n_keys - total))  # a cache of one size has room

    def named_hooks(self) -> list[NamedHook]:
        """The hook that watches the tokens go in, where a mask asks for them."""
        asked = any(isinstance(m.mask, EdgeMask) for acting in self.layers.values() for m in acting)
        return [("embed.hook_in", self._see)] if asked else []

    def _see(self, tokens: Int[Tensor, "batch pos"], hook: object) -> Int[Tensor, "batch pos"]:  # noqa: ARG002
        if self._rows.told:
            start = self._rows.start
        else:
            restarts = tokens.shape[1] >= max(self._prompts.segments.shape[1], 2)
            start = 0 if restarts else self._tokens.shape[1]
        seen = tokens.to(self._tokens.device)
        if not start or len(seen) != len(self._tokens):
            self._tokens = seen
        else:
            self._tokens = torch.cat([self._tokens[:, :start], seen], dim=1)
        self._shape = ()
        return tokens
