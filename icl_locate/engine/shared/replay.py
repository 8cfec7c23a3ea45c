"""Calling a model's own blocks on other rows, with the arguments that it gave them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from icl_locate.engine.shared.rows import CutMask, NotSharedError
from icl_locate.hooks.holding import NamedHook, hold, own
from icl_locate.hooks.routes import built_in_mask, hooks_of_empty_rows
from icl_locate.models.bridge import Model

Forward = Callable[..., Any]
Take = Callable[[Tensor], Tensor]
BlockRunner = Callable[["BlockCall"], Any]


@contextmanager
def replaced_blocks(model: Model, run: BlockRunner) -> Iterator[None]:
    """Let ``run`` stand for the forward pass of every block, inside a ``with``."""
    run = own(run)
    with hold(model), ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            forward = block.forward

            def replacement(
                *args: Any, _layer: int = layer, _forward: Forward = forward, **kwargs: Any
            ) -> Any:
                return run(BlockCall(model, _layer, _forward, args, kwargs))

            block.__dict__["forward"] = replacement
            stack.callback(block.__dict__.pop, "forward")
        yield


@dataclass(frozen=True)
class BlockCall:
    """One block's call by its model, and the same call on other rows."""

    model: Model
    layer: int
    forward: Forward
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def hidden(self) -> Float[Tensor, "batch query_pos d_model"]:
        """The residual stream that enters the block."""
        found: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return found

    @property
    def caches(self) -> list[DynamicCache]:
        """The cache that the model passed, if it passed one."""
        return [v for v in (*self.args, *self.kwargs.values()) if isinstance(v, DynamicCache)]

    @property
    def cache(self) -> DynamicCache:
        """The cache that the model passed."""
        found = self.caches
        if not found:
            raise NotSharedError("the blocks are given no cache")
        return found[0]

    @property
    def attention_mask(self) -> Float[Tensor, "batch #head query_pos key_pos"]:
        """The 4-D additive mask, with what the attention module hides by itself.

        Raises:
            NotSharedError: if the block is given none, or another kind.
        """
        for value in (*self.args[1:], *self.kwargs.values()):
            if isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point():
                attention = self.model.blocks[self.layer].attn
                seen = built_in_mask(attention, value.shape[-2], value.shape[-1], value.device)
                if not seen.all():
                    value = value.masked_fill(~seen, torch.finfo(value.dtype).min)
                return value.expand(len(self.hidden), *value.shape[1:])
        raise NotSharedError("the blocks are given no additive 4-D mask")

    def run(self) -> Any:
        """The call as the model made it."""
        return self.forward(*self.args, **self.kwargs)

    def rerun(
        self,
        hidden: Float[Tensor, "row active d_model"],
        cut: CutMask,
        cache: Cache,
        take_rows: Take,
        take_keys: Take,
        hooks: Sequence[NamedHook] = (),
    ) -> Any:
        """The block on other rows; returns what it gives, of which `first` is the residual stream.

        Args:
            take_rows: picks the rows of an argument ``[batch, query_pos, ...]``.
            take_keys: picks the keys of an argument ``[batch, head, 1, key_pos]``.
            hooks: act on the block meanwhile, on what its empty rows leave.
        """
        n_heads = int(self.model.cfg.n_heads)

        def fit(name: str | None, value: Any) -> Any:
            if value is None or isinstance(value, (bool, int, float, str)):
                return value
            if isinstance(value, Cache):
                return cache
            if isinstance(value, (tuple, list)):
                return type(value)(fit(name, item) for item in value)
            if not isinstance(value, Tensor):
                raise NotSharedError(f"the blocks are given {name}, a {type(value).__name__}")
            if value.ndim == 4:
                return cut.mask
            if name == "alibi":
                return take_keys(value.view(-1, n_heads, *value.shape[1:])).flatten(0, 1)
            if value.ndim in (2, 3) and value.shape[1] == self.hidden.shape[1]:
                return take_rows(value)
            raise NotSharedError(f"the blocks are given {name} of shape {tuple(value.shape)}")

        args = tuple(fit(None, value) for value in self.args[1:])
        kwargs = {name: fit(name, value) for name, value in self.kwargs.items()}
        with self._hooked(cut, hooks):
            if self.args:
                return self.forward(hidden, *args, **kwargs)
            return self.forward(**kwargs | {"hidden_states": hidden})

    def feed(
        self,
        hidden: Float[Tensor, "row feeding d_model"],
        cut: CutMask,
        take_rows: Take,
        take_keys: Take,
    ) -> tuple[Tensor, Tensor]:
        """The keys and values of other rows, of which the block computes nothing else.

        Args:
            cut, take_rows, take_keys: as `rerun` says.

        Raises:
            NotSharedError: if the block gives no keys and values to its cache.
        """
        cache = DynamicCache()
        cache.layers = [*(DynamicLayer() for _ in range(self.layer)), _Mouth()]
        try:
            self.rerun(hidden, cut, cache, take_rows, take_keys)
        except _FedError as fed:
            return fed.keys, fed.values
        raise NotSharedError("the blocks give their cache no keys")

    def _hooked(self, cut: CutMask, hooks: Sequence[NamedHook]) -> AbstractContextManager[object]:
        """A context in which rows without a visible key attend to nothing, and hooks act."""
        named = list(hooks)
        if cut.empty is not None:
            named = hooks_of_empty_rows(self.layer, lambda: cut.empty, lambda: cut.silent) + named
        context: AbstractContextManager[object] = (
            self.model.hooks(fwd_hooks=named) if named else nullcontext()
        )
        return context


def first(output: Any) -> Tensor:
    """The residual stream of a block's output, which is a tensor or a tuple that begins with it."""
    found: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return found


def with_first(output: Any, hidden: Tensor) -> Any:
    """A block's output with another residual stream."""
    if isinstance(output, (tuple, list)):
        return type(output)([hidden, *output[1:]])
    return hidden


class _FedError(Exception):
    """A block has computed keys and values, and need not go on."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__("keys and values are there")
        self.keys, self.values = keys, values


class _Mouth(DynamicLayer):  # type: ignore[misc]
    """A layer of a cache that stops the block as soon as it is given something."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """Take keys and values."""
        raise _FedError(key_states, value_states)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values with room to grow: new ones are written, old ones never copied."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._length = keys.shape[2]
        self._buffers = [_with_room(keys, room), _with_room(values, room)]
        self._show()

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values behind the old ones; returns all of them."""
        end = self._length + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._buffers = [_with_room(shown, end) for shown in (self.keys, self.values)]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = new
        self._length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch, in any order and number."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)


def _with_room(values: Tensor, room: int) -> Tensor:
    batch, n_heads, length, width = values.shape
    buffer = values.new_empty(batch, n_heads, length + room, width)
    buffer[:, :, :length] = values
    return buffer


def cache_with(layer: int, keys: Tensor, values: Tensor, room: int) -> DynamicCache:
    """A cache of keys and values at one layer, with room for more; the layers below are empty."""
    cache = DynamicCache()
    cache.layers = [DynamicLayer() for _ in range(layer)] + [RoomyLayer(keys, values, room)]
    return cache


def repeat(values: Tensor, n_copies: int) -> Tensor:
    """Copies of a batch behind each other."""
    return values.repeat(n_copies, *[1] * (values.ndim - 1)) if n_copies != 1 else values
