"""Segments as users name them: members of `Segment` or their names in any case, one or several."""

from typing import Any

from icl_locate._types import Segment
from icl_locate.checks.arguments import ErrorKind, check_items, check_member
from icl_locate.errors import MaskError

_NAMES = tuple(segment.name for segment in Segment if segment is not Segment.PAD)
_EXPECTED = f"some of {', '.join(_NAMES)}, such as {{Segment.EXAMPLES}} or 'examples'"


def as_segments(
    value: Any, *, name: str = "hide", error: ErrorKind = MaskError
) -> frozenset[Segment]:
    """The segments that a value names; padding is none that anybody may name.

    >>> sorted(as_segments({"examples", Segment.QUERY}))
    [<Segment.EXAMPLES: 3>, <Segment.QUERY: 4>]
    >>> as_segments("everything")
    Traceback (most recent call last):
    ...
    icl_locate.errors.MaskError: hide is 'everything': expected some of BOS, INSTRUCTIONS, \
EXAMPLES, QUERY, GENERATED, such as {Segment.EXAMPLES} or 'examples'
    """
    if isinstance(value, (Segment, str)):
        return frozenset({_as_segment(name, value, error)})
    items = check_items(name, value, _EXPECTED, error=error)
    return frozenset(_as_segment(f"an item of {name}", item, error) for item in items)


def _as_segment(name: str, value: Any, error: ErrorKind) -> Segment:
    found = check_member(name, value, Segment, _EXPECTED, error=error)
    if found is Segment.PAD:
        raise error(f"{name} holds Segment.PAD: padding is always hidden, leave it out")
    return found
