"""Holding a model: one thread at a time.

A model's hooks act on whatever runs it. So whoever puts hooks on it, or runs it, holds it: other
threads wait for their turn, and a run that asked for none is refused.
"""

import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.errors import ModelError
from icl_locate.models.bridge import Model
from icl_locate.models.loading import check_model

T = TypeVar("T")
HookFunction = Callable[..., Tensor]
NamedHook = tuple[str, HookFunction]
"""A point of the model, such as "blocks.0.attn.hook_z", and ``f(value, hook)`` for it."""

PATIENCE = 60.0
"""Seconds after which a thread that waits for a model says so."""

RunCheck = Callable[[Tensor | None, Any, int], None]
"""Looks at a run's tokens, its attention mask and the number of tokens that its cache holds, and
raises if they do not fit."""


class _Turn:
    """Whose turn a model is: a lock that its holder may take again, and the holder's name."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0
        self.holder = ""

    def take(self) -> None:
        if not self.lock.acquire(timeout=PATIENCE):
            warnings.warn(
                f"waiting for a model that the thread {self.holder!r} holds, for {PATIENCE:g} s "
                "by now: if that thread waits for this one, end its context first, or give each "
                "thread a model of its own",
                stacklevel=2,
            )
            self.lock.acquire()
        self.depth += 1
        self.holder = threading.current_thread().name

    def give(self) -> None:
        self.depth -= 1
        self.lock.release()


_turns: "weakref.WeakKeyDictionary[nn.Module, _Turn]" = weakref.WeakKeyDictionary()
_making = threading.Lock()


@contextmanager
def hold(model: Model, check: RunCheck | None = None) -> Iterator[None]:
    """Hold a model inside a ``with``; other threads that ask for it wait until the end.

    A thread may hold a model any number of times. Every forward pass inside is looked at first:
    one of another thread, which did not ask, is refused before it does anything.

    Args:
        check: also looks at each pass.

    Raises:
        ModelError: if it is no bridge, or in training mode; and in a thread that runs the model
            while another one holds it.
    """
    if not isinstance(model, TransformerBridge):
        check_model(model)
    inner: nn.Module = model.original_model
    with _making:
        turn = _turns.setdefault(inner, _Turn())
    turn.take()
    handle = None
    try:
        if turn.depth == 1:
            check_model(model)  # now: the thread before may have left it otherwise
        if turn.depth == 1 or check is not None:
            look = partial(_look_first, OwnThread(), check)
            handle = inner.register_forward_pre_hook(look, with_kwargs=True)
        yield
    finally:
        if handle is not None:
            handle.remove()
        turn.give()


def is_held(model: Model) -> bool:
    """Whether a context is open around the model: something is done to it, or about to be."""
    turn = _turns.get(model.original_model)
    return turn is not None and turn.depth > 0


def _look_first(
    same_thread: "OwnThread",
    check: RunCheck | None,
    module: nn.Module,  # noqa: ARG001
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """A forward pre-hook, but for its first two arguments."""
    same_thread()
    if check is not None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        check(tokens, kwargs.get("attention_mask"), _n_cached(kwargs.get("past_key_values")))


def _n_cached(cache: Any) -> int:
    """How many tokens a run's cache holds; 0 without one."""
    return 0 if cache is None else int(cache.get_seq_length())


class OwnThread:
    """A check that it is called in the thread that made it."""

    def __init__(self) -> None:
        self._owner = threading.current_thread().name
        self._number = threading.get_ident()

    def __call__(self) -> None:
        """Refuse any other thread.

        Raises:
            ModelError: in any other thread.
        """
        if threading.get_ident() != self._number:
            raise ModelError(
                f"the model was run in the thread {threading.current_thread().name!r}, but it "
                f"carries hooks of the thread {self._owner!r}: open masks in the thread that runs "
                "the model, call icl_locate's own functions, which wait for their turn, or give "
                "each thread a model of its own"
            )


def own(function: Callable[..., T]) -> Callable[..., T]:
    """The same function, which refuses to be called in any thread but this one."""
    return partial(_run_owned, OwnThread(), function)


def _run_owned(same_thread: OwnThread, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    same_thread()
    return function(*args, **kwargs)


def owned(hooks: Iterable[NamedHook]) -> list[NamedHook]:
    """The same hooks, which refuse runs of any thread but this one."""
    return [(name, own(function)) for name, function in hooks]
