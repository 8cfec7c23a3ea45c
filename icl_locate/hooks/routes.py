"""The two ways into a model's attention: its scores before the softmax, or the mask it is given.

Both leave the same attention: a hidden key gets weight 0, and a row without any visible key attends
to nothing (its head outputs are zero), where an additive mask alone would let it see the future.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from icl_locate.errors import ModelError
from icl_locate.hooks.cells import CellTracker
from icl_locate.hooks.holding import NamedHook


@dataclass
class _Edit:
    """One layer's edit, and the rows that it left empty in the call that is under way."""

    tracker: CellTracker
    layer: int
    _empty: Tensor | None = field(default=None, init=False)

    def hooks_of_outputs(self) -> list[NamedHook]:
        """The hooks on what empty rows attend to and give out."""
        return hooks_of_empty_rows(self.layer, lambda: self._empty, self._silent)

    def _silent(self) -> Tensor | None:
        without_bias = any(acting.mask.without_bias for acting in self.tracker.layers[self.layer])
        return self._empty.all(dim=1) if without_bias and self._empty is not None else None


@dataclass
class ScoresEdit(_Edit):
    """Edits one layer's ``hook_attn_scores``, and zeroes ``hook_pattern`` on rows left empty."""

    def named_hooks(self) -> list[NamedHook]:
        """The layer's hooks, for ``run_with_hooks`` or ``model.hooks``."""
        attention = f"blocks.{self.layer}.attn"
        return [
            (f"{attention}.hook_attn_scores", self.edit_scores),
            (f"{attention}.hook_pattern", self.edit_pattern),
            *self.hooks_of_outputs()[1:],
        ]

    def edit_scores(
        self,
        scores: Float[Tensor, "batch head query_pos key_pos"],
        hook: object,  # noqa: ARG002
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        """Fill the hidden cells with the dtype's lowest number."""
        batch, _, n_queries, n_keys = scores.shape
        cells = self.tracker.cells(self.layer, batch, n_queries, n_keys).to(scores.device)
        lowest = torch.finfo(scores.dtype).min
        edited = scores.masked_fill(cells, lowest)
        self._empty = cells.any(dim=-1) & (edited.amax(dim=-1) <= lowest / 2)
        return edited

    def edit_pattern(
        self,
        pattern: Float[Tensor, "batch head query_pos key_pos"],
        hook: object,  # noqa: ARG002
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        """Give rows that were left without a visible key no weights at all."""
        if self._empty is None or not self._empty.any():
            return pattern
        return pattern.masked_fill(self._empty[..., None], 0.0)


@dataclass
class MaskEdit(_Edit):
    """Edits the 4-D mask that one layer's attention is given, and zeroes z on rows left empty."""

    def named_hooks(self) -> list[NamedHook]:
        """The hooks on the outputs of rows left empty."""
        return self.hooks_of_outputs()

    def edit_mask(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A forward pre-hook: hide the cells in the attention's mask argument."""
        hidden_states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        batch, n_queries = hidden_states.shape[:2]
        mask = kwargs.get("attention_mask")
        if not (isinstance(mask, Tensor) and mask.ndim == 4):
            raise ModelError(
                f"{type(attention).__name__} of layer {self.layer} was given no 4-D attention mask "
                f"but {getattr(mask, 'shape', mask)!r}: this architecture cannot be masked"
            )
        n_keys = mask.shape[-1]
        cells = self.tracker.cells(self.layer, batch, n_queries, n_keys).to(mask.device)
        mask = mask.expand(batch, max(mask.shape[1], cells.shape[1]), n_queries, n_keys)
        visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        visible = visible & ~cells & built_in_mask(attention, n_queries, n_keys, mask.device)
        self._empty = cells.any(dim=-1) & ~visible.any(dim=-1)
        hide = cells & ~self._empty[..., None]
        fill = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return args, kwargs | {"attention_mask": mask.masked_fill(hide, fill)}


def hooks_of_empty_rows(
    layer: int, empty: Callable[[], Tensor | None], silent: Callable[[], Tensor | None]
) -> list[NamedHook]:
    """The hook that zeroes the head outputs of empty rows, and the one for the sublayer's output.

    Args:
        empty: gives the rows ``[batch, #head, query_pos]`` of the call that is under way.
        silent: gives those ``[batch, query_pos]`` that get no output at all.
    """
    attention = f"blocks.{layer}.attn"
    return [
        (f"{attention}.hook_z", partial(_zero_heads, empty)),
        (f"{attention}.o.hook_out", partial(_zero_output, silent)),
    ]


def _zero_heads(empty: Callable[[], Tensor | None], z: Tensor, hook: object) -> Tensor:  # noqa: ARG001
    rows = empty()
    if rows is None or not rows.any():
        return z
    return z.masked_fill(rows.transpose(1, 2)[..., None], 0.0)


def _zero_output(silent: Callable[[], Tensor | None], output: Tensor, hook: object) -> Tensor:  # noqa: ARG001
    rows = silent()
    return output if rows is None else output.masked_fill(rows[..., None], 0.0)


def built_in_mask(
    attention: nn.Module, n_queries: int, n_keys: int, device: torch.device
) -> Bool[Tensor, "#one #one #query_pos #key_pos"]:
    """The boolean mask that a module applies by itself (GPT-Neo's local window), else all True."""
    built_in = attention_bias(attention)
    if built_in is not None:
        return built_in[:, :, n_keys - n_queries : n_keys, :n_keys].to(device)
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


def attention_bias(attention: nn.Module) -> Bool[Tensor, "#one #one key_pos key_pos"] | None:
    """The whole boolean mask that a module keeps, by index of query and key, if it keeps one."""
    built_in = getattr(getattr(attention, "original_component", None), "bias", None)
    if isinstance(built_in, Tensor) and built_in.dtype == torch.bool and built_in.ndim == 4:
        return built_in
    return None
