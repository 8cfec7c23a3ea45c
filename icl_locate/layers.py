"""Which layers and heads an intervention acts on."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from icl_locate.errors import MaskError


@dataclass(frozen=True)
class LayerRange:
    """The layers ``start <= layer < stop``; ``stop=None`` means up to the last layer."""

    start: int
    stop: int | None = None

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
    return LayerRange(layer, layer + 1)


def window(layer: int, width: int) -> LayerRange:
    """The ``width`` layers ``layer .. layer + width - 1``."""
    return LayerRange(layer, layer + width)


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


def as_pairs(heads: Iterable[Iterable[int]]) -> frozenset[tuple[int, int]]:
    """Heads as (layer, head) pairs of plain integers, whatever kind of integers and pairs came.

    Raises:
        MaskError: if one is no pair.
    """
    found = [tuple(int(number) for number in head) for head in heads]
    wrong = [head for head in found if len(head) != 2]
    if wrong:
        raise MaskError(f"{wrong[0]} is no head: expected (layer, head)")
    return frozenset((layer, head) for layer, head in found)


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
