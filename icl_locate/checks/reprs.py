"""Short ``repr``s: what a thing is, its shapes and key numbers, in a line; never its tensors."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from icl_locate.checks.arguments import show

T = TypeVar("T")

LONGEST = 199
_WIDTH = 48


def short_repr(*names: str) -> Callable[[type[T]], type[T]]:
    """Give a class a ``repr`` of a line that shows these attributes.

    A name that is no attribute is looked up in the ``provenance``, and left out if it is not there.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> @short_repr("task", "scores")
    ... @dataclass(frozen=True)
    ... class Found:
    ...     scores: torch.Tensor
    ...     provenance: dict
    >>> Found(torch.tensor([[0.25, 0.5]]), {"task": "mine"})
    Found(task='mine', scores=float32[1, 2] 0.25..0.5)
    """

    def add(kind: type[T]) -> type[T]:
        def __repr__(self: Any) -> str:  # noqa: N807
            recipe = getattr(self, "provenance", {})
            shown = [
                f"{name}={brief(getattr(self, name, recipe.get(name)))}"
                for name in names
                if hasattr(self, name) or name in recipe
            ]
            text = f"{kind.__name__}({', '.join(shown)})"
            return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]}...)"

        kind.__repr__ = __repr__  # type: ignore[method-assign]
        return kind

    return add


def brief(value: object) -> str:
    """A value in a few characters: a tensor's shape and range, how many there are of many.

    >>> brief(0.123456), brief(("a", "b")), brief(range(3)), brief(list(range(100)))
    ('0.1235', "('a', 'b')", 'range(0, 3)', '<100 items>')
    """
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(getattr(value, "shape", None), tuple):
        return _array(value)
    if isinstance(value, Mapping):
        return f"<{len(value)} items>"
    if isinstance(value, (tuple, list, set, frozenset)):
        return _items(value)
    text = show(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _array(value: Any) -> str:
    text = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    known = value[value == value] if "float" in text else value[:0]
    if 0 in known.shape:
        return text
    return f"{text} {float(known.min()):.3g}..{float(known.max()):.3g}"


def _items(values: tuple[Any, ...] | list[Any] | set[Any] | frozenset[Any]) -> str:
    if len(values) > 8:
        return f"<{len(values)} items>"
    ordered = sorted(values, key=brief) if isinstance(values, (set, frozenset)) else values
    inside = ", ".join(map(brief, ordered))
    if len(inside) > _WIDTH:
        return f"<{len(values)} items>"
    if isinstance(values, list):
        return f"[{inside}]"
    if isinstance(values, tuple):
        return f"({inside},)" if len(values) == 1 else f"({inside})"
    return f"{{{inside}}}"
