"""What this package uses of a model: a TransformerBridge, with the types of its parts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge


class Config(Protocol):
    """The sizes that every bridge tells; others are asked for with a default."""

    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int
    device: torch.device
    architecture: str | None


class Block(Protocol):
    """A transformer block."""

    attn: nn.Module
    forward: Callable[..., Any]


if TYPE_CHECKING:

    class Model(Protocol):
        """A bridge, as far as type checkers need to know it; while it runs it is the class."""

        cfg: Config
        blocks: Sequence[Block]
        original_model: nn.Module
        tokenizer: Any

        @property
        def hook_dict(self) -> Mapping[str, HookPoint]:
            """The points of the model by name."""

        def hooks(
            self, fwd_hooks: Iterable[tuple[str, Callable[..., Any]]]
        ) -> AbstractContextManager[object]:
            """A context with hooks on the model."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run it forward."""

        def __hash__(self) -> int:
            """By identity."""
else:
    Model = TransformerBridge
