"""Where a sweep's masks act: from a layer on, at one layer only, or in a window of layers."""

from icl_locate.arguments import check_text
from icl_locate.errors import MaskError
from icl_locate.layers import LayerRange, from_layer


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
