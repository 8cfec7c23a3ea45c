"""Holding a model: one thread at a time.

A model's hooks act on whatever runs it. So whoever puts hooks on it, or runs it, holds it: other
threads wait for their turn, and a run that asked for none is refused.
"""

import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.errors import ModelError
from icl_locate.hooks.cells import NamedHook
from icl_locate.models import check_model

T = TypeVar("T")

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
def hold(model: TransformerBridge, check: RunCheck | None = None) -> Iterator[None]:
    """Hold a model inside a ``with``; other threads that ask for it wait until the end.

    A thread may hold a model any number of times. Every forward pass inside is looked at first:
    one of another thread, which did not ask, is refused before it does anything.

    Args:
        check: also looks at each pass.

    Raises:
        ModelError: if it is no bridge, or in training mode; and in a thread that runs the model
            while another one holds it.
    """
    check_model(model)
    inner: nn.Module = model.original_model
    with _making:
        turn = _turns.setdefault(inner, _Turn())
    turn.take()
    handle = None
    try:
        if turn.depth == 1:
            check_model(model)  # the thread before may have left it otherwise
        if turn.depth == 1 or check is not None:
            handle = inner.register_forward_pre_hook(
                _look_first(own_thread(), check), with_kwargs=True
            )
        yield
    finally:
        if handle is not None:
            handle.remove()
        turn.give()


def _look_first(same_thread: Callable[[], None], check: RunCheck | None) -> Callable[..., None]:
    """A forward pre-hook."""

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        same_thread()
        if check is not None:
            tokens = kwargs.get("input_ids", args[0] if args else None)
            check(tokens, kwargs.get("attention_mask"), _n_cached(kwargs.get("past_key_values")))

    return look


def _n_cached(cache: Any) -> int:
    """How many tokens a run's cache holds; 0 without one."""
    return 0 if cache is None else int(cache.get_seq_length())


def own_thread() -> Callable[[], None]:
    """Makes a check that it is called in the thread which made it.

    Raises:
        ModelError: the check, in any other thread.
    """
    owner = threading.current_thread()
    number = threading.get_ident()

    def same_thread() -> None:
        if threading.get_ident() != number:
            raise ModelError(
                f"the model was run in the thread {threading.current_thread().name!r}, but it "
                f"carries hooks of the thread {owner.name!r}: open masks in the thread that runs "
                "the model, call icl_locate's own functions, which wait for their turn, or give "
                "each thread a model of its own"
            )

    return same_thread


def own(function: Callable[..., T]) -> Callable[..., T]:
    """The same function, which refuses to be called in any thread but this one."""
    same_thread = own_thread()

    def run(*args: Any, **kwargs: Any) -> T:
        same_thread()
        return function(*args, **kwargs)

    return run


def owned(hooks: Iterable[NamedHook]) -> list[NamedHook]:
    """The same hooks, which refuse runs of any thread but this one."""
    return [(name, own(function)) for name, function in hooks]
