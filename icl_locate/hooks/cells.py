"""The cells that a mask hides, layer by layer, while a model runs forward or generates."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate.errors import MaskError
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.hidden import extend_segments, hidden_by_head
from icl_locate.interventions.masks import EdgeMask, LayerMask

HookFunction = Callable[..., Tensor]
NamedHook = tuple[str, HookFunction]


class CellTracker:
    """Answers, for each attention call, which of its cells are hidden.

    A cached decoding step shows a layer only its newest rows, and a sliding-window layer only its
    newest keys, so the tracker counts the positions that each layer has seen: the last key of a
    call is always the last position, whatever was dropped in front.
    """

    def __init__(
        self,
        prompts: Positions,
        layers: Mapping[int, tuple[LayerMask, ...]],
        n_heads: int,
    ) -> None:
        self.layers = layers
        self._prompts = prompts
        self._tokens = prompts.segments.new_zeros(len(prompts.segments), 0, dtype=torch.long)
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
        n_prompts, width = self._prompts.segments.shape
        if batch != n_prompts or total < width:
            raise MaskError(
                f"the model ran on {batch} x {total} tokens under a mask made for prompts of "
                f"{n_prompts} x {width}: run it on prompts.tokens, whole, or make the mask for the "
                "prompts that you run"
            )
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
        segments = extend_segments(self._prompts.segments, total)
        tokens = words = None
        if self._prompts.words is not None and self._tokens.shape[1] >= total:
            n_new = total - self._prompts.words.shape[1]
            tokens = self._tokens[:, self._tokens.shape[1] - total :]
            words = torch.nn.functional.pad(self._prompts.words, (0, n_new), value=-1)
        positions = Positions(segments, tokens, words)
        hidden = hidden_by_head(masks, positions, n_queries, self._n_heads)
        return hidden[..., total - n_keys :]

    def named_hooks(self) -> list[NamedHook]:
        """The hook that watches the tokens go in, where a mask asks for them."""
        asked = any(isinstance(m.mask, EdgeMask) for acting in self.layers.values() for m in acting)
        return [("embed.hook_in", self._see)] if asked else []

    def _see(self, tokens: Int[Tensor, "batch pos"], hook: object) -> Int[Tensor, "batch pos"]:  # noqa: ARG002
        restarts = tokens.shape[1] >= max(self._prompts.segments.shape[1], 2)
        if restarts or len(tokens) != len(self._tokens):
            self._tokens = tokens
        else:
            self._tokens = torch.cat([self._tokens, tokens], dim=1)
        self._shape = ()
        return tokens
