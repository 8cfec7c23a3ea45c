"""Places in prompts, named by segment, part and shot."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate._types import Part, Segment
from icl_locate.checks.arguments import (
    check_choice,
    check_counts,
    check_items,
    check_member,
    refuse,
)
from icl_locate.checks.reprs import brief
from icl_locate.errors import MaskError
from icl_locate.interventions.segments import as_segments
from icl_locate.prompts.tokens import Prompts

Which = Literal["all", "first", "last"]
_PARTS = "Part.SOURCE, Part.TARGET, Part.DELIMITER, or the name of one"
_SHOTS = "'each', a shot's number from 1, or a set of them"
_EXPECTED = (
    "'last', 'all', a Segment or its name such as 'examples', an At such as "
    "At('examples', 'target', shot='each', which='last'), or a list of these"
)


@dataclass(frozen=True)
class At:
    """Positions of each prompt: the tokens that fit everything that is said of them.

    Attributes:
        segment: a member of `Segment`, or its name; ``None``: any.
        part: a member of `Part`, or its name; ``None``: any.
        shot: the number of an example, from 1, or a set of them; "each": every example;
            ``None``: in and outside of examples.
        which: "all" tokens that fit, or the "first" or "last" of them: of each example where
            shots are asked for, else of the prompt.

    Raises:
        MaskError: if an argument is none of these.

    >>> At("examples", "target", shot="each", which="last")
    At(segment=EXAMPLES, part=TARGET, shot='each', which='last')
    >>> At()
    At()
    """

    segment: Segment | str | None = None
    part: Part | str | None = None
    shot: int | AbstractSet[int] | Literal["each"] | None = None
    which: Which | str = "all"

    def __post_init__(self) -> None:
        if self.segment is not None:
            if not isinstance(self.segment, (Segment, str)):
                refuse("segment", self.segment, "a Segment, or its name", MaskError)
            (segment,) = as_segments(self.segment, name="segment")
            object.__setattr__(self, "segment", segment)
        if self.part is not None:
            part = check_member("part", self.part, Part, _PARTS, error=MaskError)
            object.__setattr__(self, "part", part)
        if isinstance(self.shot, str):
            if self.shot != "each":
                refuse("shot", self.shot, _SHOTS, MaskError)
        elif self.shot is not None:
            shots = frozenset(check_counts("shot", self.shot, error=MaskError))
            object.__setattr__(self, "shot", shots)
        check_choice("which", self.which, ("all", "first", "last"), error=MaskError)

    def __repr__(self) -> str:
        said = {name: value for name, value in vars(self).items() if value not in (None, "all")}
        return f"At({', '.join(f'{name}={brief(value)}' for name, value in said.items())})"


def _chosen(place: At, prompts: Prompts) -> Bool[Tensor, "batch pos"]:
    """Which tokens a place names; those of targets that are appended only as such.

    Raises:
        MaskError: naming the first prompt that has no such token.
    """
    segments, shots = prompts.segments, prompts.shots
    behind = place.segment is Segment.GENERATED
    fits = prompts.attention_mask & ((segments == Segment.GENERATED) == behind)
    if place.segment is not None:
        fits &= segments == place.segment
    if place.part is not None:
        fits &= prompts.parts == place.part
    if behind:  # an answer may be empty
        return _among(place, fits)
    if place.shot is None:
        return _require(place, _among(place, fits))
    found = torch.zeros_like(fits)
    for shot in range(1, int(shots.max()) + 1) if place.shot == "each" else _numbers(place.shot):
        some = _among(place, fits & (shots == shot))
        found |= some if place.shot == "each" else _require(place, some)
    return _require(place, found)


def _numbers(shot: Any) -> list[int]:
    """The shots that are asked for, as ``At`` keeps them."""
    return sorted(shot)


def _among(place: At, fits: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """All, or the first or last, of the tokens that fit."""
    if place.which == "first":
        return fits & (fits.cumsum(dim=1) == 1)
    if place.which == "last":
        return fits & (fits.flip(-1).cumsum(dim=1).flip(-1) == 1)
    return fits


def _require(place: At, found: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """What was found, if every prompt has some of it."""
    absent = ~found.any(dim=1)
    if absent.any():
        raise MaskError(
            f"prompt {int(absent.nonzero()[0])} has no token at {place!r}: build prompts that have "
            "one, or name other positions"
        )
    return found


Places = tuple[At, ...]
"""Positions of each prompt: those of any of these."""

_NAMED = {
    "all": At(),
    "last": At(which="last"),
}


def as_places(value: Any) -> Places:
    """Positions as a user names them, one or several.

    Raises:
        MaskError: if it names none.

    >>> as_places("last"), as_places(["query", At(shot=1)])
    ((At(which='last'),), (At(segment=QUERY), At(shot={1})))
    """
    if isinstance(value, (At, Segment, str)):
        return (_as_at("at", value),)
    items = check_items("at", value, _EXPECTED, error=MaskError)
    return tuple(dict.fromkeys(_as_at(f"at[{i}]", item) for i, item in enumerate(items)))


def _as_at(name: str, value: Any) -> At:
    if isinstance(value, At):
        return value
    if isinstance(value, str) and value in _NAMED:
        return _NAMED[value]
    segment = check_member(name, value, Segment, _EXPECTED, error=MaskError)
    if segment is Segment.PAD:
        raise MaskError(f"{name} is Segment.PAD: padding is no place in a text, leave it out")
    return At(segment)


def chosen_positions(places: Places, prompts: Prompts) -> Bool[Tensor, "batch pos"]:
    """Which tokens of the prompts are named.

    Raises:
        MaskError: naming the first prompt that lacks one of the places.
    """
    found = torch.zeros_like(prompts.attention_mask)
    for place in places:
        found |= _chosen(place, prompts)
    return found


def numbered(chosen: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """The number of each chosen position among its prompt's, from 0; others take the one before."""
    return (chosen.long().cumsum(dim=1) - 1).clamp(min=0)
