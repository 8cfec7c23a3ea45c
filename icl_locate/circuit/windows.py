"""Windows of layers in which something is cut: the paper's quarters, sliding ones, or any."""

from collections.abc import Iterable

from icl_locate.checks.arguments import check_choice, check_count, check_items, refuse
from icl_locate.errors import MaskError

Window = tuple[int, int]
Windows = str | int | Iterable[Iterable[int]]

_SHARES = ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1), (0, 1))
"""Those of Cho et al., Table 1, of all layers."""
_EXPECTED = (
    "'quarters', 'layers', a width such as 2, or a list of (start, stop) layers, such as [(0, 4)]"
)


def choose_windows(windows: Windows, n_layers: int) -> tuple[Window, ...]:
    """Windows as (start, stop) layers, of which ``start <= layer < stop`` are in it.

    Args:
        windows: "quarters": each quarter of the layers and all of them, from ``int(a * n_layers)``
            on; of a model with fewer than four layers those that hold any. "layers": each alone. A
            width: that many layers from each on. Or the windows themselves, each once.

    Raises:
        MaskError: a window that is empty, or reaches outside the model; none at all.

    >>> choose_windows("quarters", 6)
    ((0, 1), (1, 3), (3, 4), (4, 6), (0, 6))
    >>> choose_windows(3, 5)
    ((0, 3), (1, 4), (2, 5))
    """
    if isinstance(windows, str):
        if check_choice("windows", windows, ("quarters", "layers"), error=MaskError) == "layers":
            return _sliding(1, n_layers)
        ends = [(int(a * n_layers), int(b * n_layers)) for a, b in _SHARES]
        return tuple(dict.fromkeys((start, stop) for start, stop in ends if start < stop))
    if getattr(windows, "shape", ()) == () and hasattr(windows, "__index__"):
        return _sliding(check_count("windows", windows, most=n_layers, error=MaskError), n_layers)
    given = check_items("windows", windows, _EXPECTED, ordered=True, error=MaskError)
    found = [_window(f"windows[{i}]", one, n_layers) for i, one in enumerate(given)]
    if not found or len(set(found)) < len(found):
        refuse("windows", given, "at least one window of layers, each once", MaskError)
    return tuple(found)


def _sliding(width: int, n_layers: int) -> tuple[Window, ...]:
    return tuple((start, start + width) for start in range(n_layers - width + 1))


def _window(name: str, given: object, n_layers: int) -> Window:
    expected = f"(start, stop) with 0 <= start < stop <= {n_layers}, the model's layers"
    ends = check_items(name, given, expected, ordered=True, error=MaskError)
    if len(ends) != 2:
        refuse(name, given, expected, MaskError)
    start, stop = (check_count(name, end, least=0, error=MaskError) for end in ends)
    if not start < stop <= n_layers:
        refuse(name, (start, stop), expected, MaskError)
    return start, stop
