"""Where the rows of the running call stand in their texts: the one count of positions."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate.errors import MaskError
from icl_locate.hooks.holding import RunCheck
from icl_locate.models.bridge import Model

_dropping: "weakref.WeakKeyDictionary[Model, int]" = weakref.WeakKeyDictionary()


@contextmanager
def rows_dropped(model: Model, from_layer: int) -> Iterator[None]:
    """Say that layers from one on are shown only some of the rows, inside a ``with``."""
    _dropping[model] = from_layer
    try:
        yield
    finally:
        del _dropping[model]


def drops_rows(model: Model) -> bool:
    """Whether some of the model's layers are shown only some of the rows now."""
    return model in _dropping


class RowCount:
    """Counts positions while a model runs forward or generates.

    A cached decoding step shows a layer only its newest rows, and a sliding-window layer only its
    newest keys. Whoever holds the model is told before each run what its cache holds (`note`, a
    check for `hold`); hooks that were handed over know the shapes of what they see alone (`reach`).

    Attributes:
        real: which positions of the prompts are no padding; ``None`` if there are no prompts.
        start, end: the running call's rows are these positions of the padded texts.
    """

    def __init__(
        self,
        real: Bool[Tensor, "batch pos"] | None,
        act: str,
        check: RunCheck | None = None,
        model: Model | None = None,
    ) -> None:
        """Begin with no run.

        Args:
            act: what a message says that runs are under, such as "a mask".
            check: also looks at each run that is told of.
            model: whose rows are counted; ``None`` where none of them can be dropped.
        """
        self.real, self._act, self._check, self._model = real, act, check, model
        self.start = self.end = 0
        self.told = self._padded = False
        self._ends: dict[int, int] = {}
        self._padding = torch.zeros(1, 1, dtype=torch.long)
        if real is not None:
            self._padding = (~real).long().cumprod(dim=1).sum(dim=1)[:, None].cpu()

    def note(self, tokens: Tensor | None, given: Any, n_cached: int) -> None:
        """Note where a run begins, and refuse one that does not fit the prompts.

        Raises:
            MaskError: if it is a run of other prompts.
        """
        if self._check is not None:
            self._check(tokens, given, n_cached)
        if self.real is None:
            self._padded = isinstance(given, Tensor) and given.ndim == 2 and not given.all()
        self.told = tokens is not None
        if tokens is not None:
            self.start, self.end = n_cached, n_cached + tokens.shape[1]
            self.require(len(tokens))

    def reach(self, n_rows: int, n_keys: int, layer: int = 0) -> int:
        """How many positions there are, at a layer that is shown so many rows and keys.

        The last key is always the last position, whatever was dropped in front.

        Raises:
            MaskError: inside a `drop_context` that drops rows there.
        """
        self.require_rows(layer)
        if not self.told:
            whole = n_rows == n_keys
            end = n_rows if whole else max(n_keys, self._ends.get(layer, 0) + n_rows)
            self._ends[layer] = end
            self.start, self.end = end - n_rows, end
        return self.end

    def require(self, batch: int) -> None:
        """Refuse a run of another batch, or of fewer positions than the prompts have.

        Raises:
            MaskError: saying both sizes.
        """
        if self.real is None:
            return
        n_prompts, width = self.real.shape
        if batch != n_prompts or self.end < width:
            raise MaskError(
                f"the model ran on {batch} x {self.end} tokens under {self._act} made for prompts "
                f"of {n_prompts} x {width}: run it on prompts.tokens, whole, or make it for the "
                "prompts that you run"
            )

    def require_rows(self, layer: int | None = None) -> None:
        """Refuse a layer that is shown only some of the rows; ``None`` if it may be any.

        Raises:
            MaskError: inside a `drop_context` that drops rows there.
        """
        start = None if self._model is None else _dropping.get(self._model)
        if start is None or (layer is not None and layer < start):
            return
        raise MaskError(
            f"{self._act} counts on every row, but drop_context shows the layers from {start} on "
            "only some: act on layers below it alone, or hide the context by a ContextMask instead "
            "of dropping it"
        )

    def places(self, layer: int | None = None) -> Int[Tensor, "#batch pos"]:
        """Each row's place in its text, from 0; padding's is 0.

        Args:
            layer: where the rows are; ``None`` if that may be anywhere.

        Raises:
            MaskError: if there is padding, and no prompts that say where; inside a `drop_context`
                that drops rows there.
        """
        self.require_rows(layer)
        if self._padded:
            raise MaskError(
                "padded prompts were run, but the heads' stand-ins were made for rows without "
                "padding: say ablate_heads(..., prompts=prompts)"
            )
        return (torch.arange(self.start, self.end) - self._padding).clamp(min=0)
