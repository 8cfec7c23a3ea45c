"""The cells that a mask hides, layer by layer, while a model runs forward or generates."""

from collections.abc import Mapping

from jaxtyping import Bool, Int8
from torch import Tensor

from icl_locate.errors import MaskError
from icl_locate.masks import LayerMask, extend_segments, hidden_by_head


class CellTracker:
    """Answers, for each attention call, which of its cells are hidden.

    A cached decoding step shows a layer only its newest rows, and a sliding-window layer only its
    newest keys, so the tracker counts the positions that each layer has seen: the last key of a
    call is always the last position, whatever was dropped in front.
    """

    def __init__(
        self,
        segments: Int8[Tensor, "batch pos"],
        layers: Mapping[int, tuple[LayerMask, ...]],
        n_heads: int,
    ) -> None:
        self.layers = layers
        self._segments = segments
        self._n_heads = n_heads
        self._seen: dict[int, int] = {}
        self._shape: tuple[int, ...] = ()
        self._computed: dict[tuple[LayerMask, ...], Tensor] = {}

    def cells(
        self, layer: int, batch: int, n_queries: int, n_keys: int
    ) -> Bool[Tensor, "batch #head query_pos key_pos"]:
        """The hidden cells of one attention call at a layer, whose masks' heads are 1 if all alike.

        Raises:
            MaskError: if the model runs on another batch, or on fewer tokens than the prompts have.
        """
        total = (
            n_queries if n_queries == n_keys else max(n_keys, self._seen.get(layer, 0) + n_queries)
        )
        self._seen[layer] = total
        if batch != self._segments.shape[0] or total < self._segments.shape[1]:
            raise MaskError(
                f"the model ran on {batch} x {total} tokens under a mask made for prompts of "
                f"{self._segments.shape[0]} x {self._segments.shape[1]}: run it on prompts.tokens, "
                "whole, or make the mask for the prompts that you run"
            )
        shape = (n_queries, n_keys, total)
        if shape != self._shape:
            self._shape, self._computed = shape, {}
        masks = self.layers[layer]
        if masks not in self._computed:
            self._computed[masks] = self._compute(masks, *shape)
        return self._computed[masks]

    def _compute(
        self, masks: tuple[LayerMask, ...], n_queries: int, n_keys: int, total: int
    ) -> Bool[Tensor, "batch #head query_pos key_pos"]:
        segments = extend_segments(self._segments, total)
        hidden = hidden_by_head(masks, segments, n_queries, self._n_heads)
        return hidden[..., total - n_keys :]
