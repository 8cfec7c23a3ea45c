"""Which layers and heads an intervention acts on."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from icl_locate.checks.arguments import check_count, check_items, check_text, show
from icl_locate.errors import MaskError


def _whole(layer: Any) -> int:
    """A layer's number, whatever kind of integer came; whether the model has it is seen later."""
    if isinstance(layer, int) and layer < 0:
        return layer
    return check_count("layer", layer, least=0, error=MaskError)


@dataclass(frozen=True)
class LayerRange:
    """The layers ``start <= layer < stop``; ``stop=None`` means up to the last layer."""

    start: int
    stop: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _whole(self.start))
        if self.stop is not None:
            object.__setattr__(self, "stop", _whole(self.stop))

    def resolve(self, n_layers: int) -> frozenset[int]:
        """The layers of a model with ``n_layers``.

        Raises:
            MaskError: if the range reaches outside ``0..n_layers``.
        """
        stop = n_layers if self.stop is None else self.stop
        if not 0 <= self.start <= stop <= n_layers:
            raise MaskError(
                f"layers {self.start} to {stop} are out of range: the model has layers 0 to "
                f"{n_layers - 1}, and a mask may start at 0 to {n_layers}"
            )
        return frozenset(range(self.start, stop))


ALL_LAYERS = LayerRange(0)


def from_layer(layer: int) -> LayerRange:
    """Layer ``layer`` and all above it; ``from_layer(n_layers)`` masks nothing (Sia24 §3)."""
    return LayerRange(layer)


def until_layer(layer: int) -> LayerRange:
    """All layers below ``layer``; ``until_layer(0)`` masks nothing."""
    return LayerRange(0, layer)


def only_layer(layer: int) -> LayerRange:
    """The one layer ``layer``."""
    return LayerRange(_whole(layer), _whole(layer) + 1)


def window(layer: int, width: int) -> LayerRange:
    """The ``width`` layers ``layer .. layer + width - 1``; ``width`` is 1 or more."""
    width = check_count("width", width, error=MaskError)
    return LayerRange(_whole(layer), _whole(layer) + width)


def masked_layers(scope: str, layer: int, n_layers: int) -> LayerRange:
    """The layers that a mask acts on at one point of a sweep; none at the last, ``n_layers``.

    Args:
        scope: "from" (the layer and all above it, Sia et al. 2024, section 3), "only" (it alone),
            or "window:W" (it and the next ``W - 1``, cut at the top).

    Raises:
        MaskError: if the scope is none of these.

    >>> masked_layers("window:3", 6, 8)
    LayerRange(start=6, stop=8)
    """
    if layer == n_layers or scope == "from":
        return from_layer(layer)
    return LayerRange(layer, min(layer + scope_width(scope), n_layers))


def scope_width(scope: str) -> int:
    """How many layers a scope's masks act on: 1 for "only", ``W`` for "window:W".

    Raises:
        MaskError: if the scope has no width.
    """
    kind, _, width = check_text("scope", scope, error=MaskError).partition(":")
    if scope == "only":
        return 1
    if kind == "window" and width.isdecimal() and int(width) > 0:
        return int(width)
    raise MaskError(
        f"scope is {scope!r}: expected 'from', 'only', or 'window:W' such as 'window:3'"
    )


def as_starts(layers: Iterable[int] | None, n_layers: int) -> tuple[int, ...]:
    """The start layers of a sweep, ascending; 0 and ``n_layers`` are always among them.

    Args:
        layers: those that are wanted; ``None`` means all.

    Raises:
        MaskError: if the model has no such layer.

    >>> as_starts([4, 2], 6)
    (0, 2, 4, 6)
    """
    if layers is None:
        return tuple(range(n_layers + 1))
    outside = sorted(layer for layer in layers if not 0 <= layer <= n_layers)
    if outside:
        raise MaskError(
            f"layer {outside[0]} is no start layer: the model's are 0 to {n_layers} (which hides "
            "nothing)"
        )
    return tuple(sorted({0, n_layers, *layers}))


def as_layers(value: Any) -> LayerRange | frozenset[int]:
    """A range of layers, or a set of them, of which a single one may stand alone.

    Raises:
        MaskError: if it is neither.
    """
    if isinstance(value, LayerRange):
        return value
    if hasattr(value, "__index__") and getattr(value, "shape", ()) == ():
        return frozenset({_whole(value)})
    expected = "a layer, a set of layers such as {2, 5}, or a range such as from_layer(2)"
    found = check_items("layers", value, expected, error=MaskError)
    return frozenset(_whole(layer) for layer in found)


def resolve_layers(layers: LayerRange | AbstractSet[int], n_layers: int) -> frozenset[int]:
    """The layers of a range or set, in a model with ``n_layers``.

    Raises:
        MaskError: if one is out of the model's range.
    """
    if isinstance(layers, LayerRange):
        return layers.resolve(n_layers)
    outside = sorted(layer for layer in layers if not 0 <= layer < n_layers)
    if outside:
        raise MaskError(
            f"layer {outside[0]} is out of range: the model has layers 0 to {n_layers - 1}"
        )
    return frozenset(layers)


_PAIRS = "(layer, head) pairs, such as {(3, 1), (4, 0)}"


def as_pairs(heads: Any, name: str = "heads") -> frozenset[tuple[int, int]]:
    """Heads as (layer, head) pairs of plain integers, whatever kind of integers and pairs came.

    Args:
        name: what a message calls them.

    Raises:
        MaskError: if one is no pair.
    """
    return frozenset(list_pairs(heads, name))


def list_pairs(heads: Any, name: str = "heads") -> list[tuple[int, int]]:
    """The same, in the order in which they came."""
    return [_as_pair(name, head) for head in check_items(name, heads, _PAIRS, error=MaskError)]


def _as_pair(name: str, head: Any) -> tuple[int, int]:
    try:
        layer, number = check_items(name, head, _PAIRS, error=MaskError)
        return _whole(layer), _whole(number)
    except ValueError:  # one, three, or no whole numbers
        raise MaskError(f"{name} hold {show(head)}, which is no head: expected {_PAIRS}") from None


def check_heads(heads: Iterable[tuple[int, int]], n_layers: int, n_heads: int) -> None:
    """Refuse heads that a model does not have.

    Raises:
        MaskError: naming the first one.
    """
    for layer, head in sorted(heads):
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise MaskError(
                f"head (layer {layer}, head {head}) is out of range: the model has layers 0 to "
                f"{n_layers - 1} and heads 0 to {n_heads - 1}"
            )
