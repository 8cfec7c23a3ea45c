"""Masking conditions: what a prompt holds, and what of it is hidden."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from icl_locate._types import Segment
from icl_locate.errors import MaskError
from icl_locate.masks import ContextMask, LayerRange


@dataclass(frozen=True)
class Condition:
    """A masking condition.

    Attributes:
        name: its label in results and figures.
        hide: the segments whose keys are hidden.
        instruction: whether the prompt holds the task's instruction.
        keep_self: whether a row still sees its own token.
    """

    name: str
    hide: AbstractSet[Segment]
    instruction: bool = True
    keep_self: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hide", frozenset(self.hide))
        if Segment.INSTRUCTIONS in self.hide and not self.instruction and not self.keep_self:
            raise MaskError(
                f"condition {self.name!r} hides instructions that its prompt does not hold: "
                "set instruction=True, or do not hide them"
            )

    def mask(self, layers: LayerRange | AbstractSet[int]) -> ContextMask:
        """The condition's mask at some layers."""
        return ContextMask(self.hide, layers, keep_self=self.keep_self)


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


def get_condition(condition: str | Condition) -> Condition:
    """The paper's condition of a name; a `Condition` is returned as it is.

    Raises:
        MaskError: if the name is unknown.
    """
    if isinstance(condition, Condition):
        return condition
    for known in PAPER_CONDITIONS:
        if known.name == condition:
            return known
    names = ", ".join(repr(known.name) for known in PAPER_CONDITIONS)
    raise MaskError(f"unknown condition {condition!r}: expected one of {names}, or a Condition")
