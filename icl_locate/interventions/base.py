"""What every intervention is: a value that says what is done to a model, and that composes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icl_locate.checks.arguments import ErrorKind, check_items, refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import KINDS, checked
from icl_locate.errors import MaskError

_EXPECTED = (
    "a ContextMask, an EdgeMask, a HeadAblation, a HeadScale, a StateEdit, or several joined by |"
)


class Intervention:
    """What is done to a model while it runs, as a value. Several compose by ``|``.

    The union does what each part does; their order does not matter, and twice is once. A kind of
    your own is a subclass (best a frozen dataclass, so that equal ones are one) together with its
    application: `icl_locate.register_intervention` says how it is put on a model.
    """

    @property
    def parts(self) -> tuple["Intervention", ...]:
        """The interventions that it is made of; one that is no union is its own only part."""
        return (self,)

    @checked(MaskError)
    def take(self, items: Sequence[int]) -> "Intervention":  # noqa: ARG002
        """The intervention for some of the prompts that it was made for.

        It is itself, unless it holds something for each prompt.
        """
        return self

    def __or__(self, other: "Intervention") -> "Intervention":
        return Composition((self, check_intervention("mask", other)))


@short_repr("members")
@dataclass(frozen=True, eq=False)
class Composition(Intervention):
    """Several interventions of any kinds at once, as ``|`` makes them.

    Attributes:
        members: each once, in the order in which they came, which means nothing.

    Raises:
        MaskError: if one is no intervention.
    """

    members: tuple[Intervention, ...]

    def __post_init__(self) -> None:
        given = check_items("members", self.members, "a list of interventions", error=MaskError)
        parts = [part for one in given for part in check_intervention("members", one).parts]
        object.__setattr__(self, "members", tuple(dict.fromkeys(parts)))

    @property
    def parts(self) -> tuple[Intervention, ...]:
        """The interventions that it is made of."""
        return self.members

    def take(self, items: Sequence[int]) -> "Intervention":
        """Each of its parts, for some of the prompts."""
        return Composition(tuple(part.take(items) for part in self.members))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Composition) and set(self.members) == set(other.members)

    def __hash__(self) -> int:
        return hash(frozenset(self.members))


def check_intervention(name: str, value: Any, error: ErrorKind = MaskError) -> Intervention:
    """The value, if it is an intervention whose parts are hashable.

    Raises:
        MaskError: if it is not.
    """
    if not isinstance(value, Intervention):
        refuse(name, value, _EXPECTED, error)
    for part in value.parts:
        try:
            hash(part)
        except TypeError as why:
            raise error(
                f"{name} holds a {type(part).__name__}, which is not hashable ({why}), so that "
                "twice would not be once: make it a frozen dataclass, and lists in it tuples"
            ) from None
    return value


KINDS[Intervention] = check_intervention
