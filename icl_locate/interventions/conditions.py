"""Masking conditions: what a prompt holds, and what of it is hidden."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl_locate._types import Segment
from icl_locate.checks.arguments import check_flag, check_text, refuse
from icl_locate.errors import MaskError
from icl_locate.interventions.layers import LayerRange
from icl_locate.interventions.segments import as_segments

if TYPE_CHECKING:
    from icl_locate.interventions.base import Intervention
    from icl_locate.interventions.masks import ContextMask


@dataclass(frozen=True)
class Condition:
    """A masking condition. A subclass may do anything else, too: what its `at` gives.

    Attributes:
        name: its label in results and figures.
        hide: the segments whose keys are hidden: members of `Segment` or their names in any case;
            a single one may stand alone.
        instruction: whether the prompt holds the task's instruction.
        keep_self: whether a row still sees its own token.
        without_bias: whether rows that see nothing get no attention output at all, not even the
            output projection's bias.

    Raises:
        MaskError: if an argument is none of these, or hides what the prompt does not hold.
    """

    name: str
    hide: AbstractSet[Segment]
    instruction: bool = True
    keep_self: bool = False
    without_bias: bool = False

    def __post_init__(self) -> None:
        if not check_text("name", self.name, error=MaskError).strip():
            refuse("name", self.name, "a condition's label", MaskError)
        object.__setattr__(self, "hide", as_segments(self.hide))
        for name in ("instruction", "keep_self", "without_bias"):
            flag = check_flag(name, getattr(self, name), error=MaskError)
            object.__setattr__(self, name, flag)
        hides_all = self.keep_self or self.without_bias
        if Segment.INSTRUCTIONS in self.hide and not self.instruction and not hides_all:
            raise MaskError(
                f"condition {self.name!r} hides instructions that its prompt does not hold: "
                "set instruction=True, or do not hide them"
            )

    def at(self, layers: LayerRange | AbstractSet[int]) -> "Intervention":
        """What the condition does at some layers: its mask, unless a subclass says otherwise."""
        return self.mask(layers)

    def mask(self, layers: LayerRange | AbstractSet[int]) -> "ContextMask":
        """The condition's mask at some layers."""
        from icl_locate.interventions.masks import (
            ContextMask,  # brings torch; a condition's name asks for none
        )

        return ContextMask(
            self.hide, layers, keep_self=self.keep_self, without_bias=self.without_bias
        )


_CONTEXT = {Segment.INSTRUCTIONS, Segment.EXAMPLES}
_EVERYTHING = _CONTEXT | {Segment.QUERY}

PAPER_CONDITIONS: tuple[Condition, ...] = (
    Condition("examples", {Segment.EXAMPLES}, instruction=False),
    Condition("instructions+examples", _CONTEXT),
    Condition("examples, instructions kept", {Segment.EXAMPLES}),
    Condition("query", {Segment.QUERY}),
    Condition("everything", _EVERYTHING),
    Condition("all but self", _EVERYTHING | {Segment.BOS, Segment.GENERATED}, keep_self=True),
)
"""The six conditions of Sia et al. (NeurIPS 2024, section 3), in the paper's order."""


_ALL = frozenset(Segment) - {Segment.PAD}

SKIPPED_ATTENTION: tuple[Condition, ...] = (
    Condition("attention skipped", _ALL, without_bias=True),
    Condition("attention skipped, no instruction", _ALL, instruction=False, without_bias=True),
)
"""No attention at all: with ``scope="only"``, the single-layer masking of Sia et al. (arXiv
2403.04510v1, section 4): the MLP then acts on what the layer below gave."""


NAMED: tuple[Condition, ...] = (*PAPER_CONDITIONS, *SKIPPED_ATTENTION)
"""All that have a name here; a sweep that names none takes the paper's."""


def get_condition(condition: str | Condition) -> Condition:
    """The condition of a name; a `Condition` is returned as it is.

    Raises:
        MaskError: if the name is unknown.
    """
    if isinstance(condition, Condition):
        return condition
    for known in NAMED:
        if known.name == condition:
            return known
    names = ", ".join(repr(known.name) for known in NAMED)
    raise MaskError(f"unknown condition {condition!r}: expected one of {names}, or a Condition")
