"""What an ablation study compares: arms, each a selection of heads and what is done to it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from icl_locate.checks.arguments import (
    check_choice,
    check_count,
    check_items,
    check_number,
    check_text,
    refuse,
)
from icl_locate.checks.contents import check_pairs, made_of, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import ResultError

_KINDS = ("full", "induction", "random")


@short_repr("intervention", "kind", "fraction", "control", "heads")
@dataclass(frozen=True)
class Arm:
    """One way in which the study's prompts were run.

    Attributes:
        intervention: what was done to the heads; "none" for the whole model.
        kind: "full", "induction" (the selection) or "random" (a control).
        fraction: of all heads; where several choose the same heads, the greatest of them.
        control: the number of the control, from 0.
        heads: the (layer, head) pairs.
        fractions: all fractions that choose these heads; () for the whole model.
    """

    intervention: str
    kind: Literal["full", "induction", "random"] | str
    fraction: float
    control: int
    heads: tuple[tuple[int, int], ...]
    fractions: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        settle(
            self,
            intervention=check_text("intervention", self.intervention, error=ResultError),
            kind=check_choice("kind", self.kind, _KINDS, error=ResultError),
            fraction=check_number(
                "fraction", self.fraction, least=0.0, most=1.0, error=ResultError
            ),
            control=check_count("control", self.control, least=0, error=ResultError),
            heads=check_pairs("heads", self.heads),
            fractions=_shares(self.fractions),
        )

    @property
    def share(self) -> str:
        """The fractions as a table says them.

        >>> Arm("zero", "induction", 0.03, 0, ((0, 0),), (0.01, 0.03)).share
        '1 %, 3 %'
        """
        return say_shares(self.fractions or (self.fraction,))

    @property
    def label(self) -> str:
        """The arm in a few words, none like another's.

        >>> Arm("zero", "random", 0.03, 1, ((0, 0),)).label
        'zero, 3 %, random 1'
        """
        if self.kind == "full":
            return "full"
        control = f"random {self.control}" if self.kind == "random" else self.kind
        return f"{self.intervention}, {self.share}, {control}"


@dataclass(frozen=True)
class Comparison:
    """The selection against its random controls, for one intervention, fraction and shots.

    Each score is (mean over seeds, and for random over controls; low; high), its interval
    Student's, from the scatter over items and seeds (NaN for a single item).

    Attributes:
        fraction, fractions: as `Arm` says.
        full, induction, random: the scores of the whole model, without the selection, without the
            controls.
        difference: random minus induction: what the selection is worth beyond other heads. Its
            interval, and that of random, takes the controls for some of all that could be drawn; of
            a single control it leaves out how much they differ.
        p_value: of no difference between the selection and these very controls, two-sided: how
            often swapping the two item by item gives as large a one (a paired permutation test). It
            does not say how other controls would have done.
        rank_p: over controls: the share of them, the selection counted as one, that cost as much as
            the selection or more. No less than 1 / (controls + 1), so it takes 19 for 0.05.
    """

    intervention: str
    fraction: float
    n_shots: int
    full: tuple[float, float, float]
    induction: tuple[float, float, float]
    random: tuple[float, float, float]
    difference: tuple[float, float, float]
    p_value: float
    rank_p: float
    fractions: tuple[float, ...] = ()

    @property
    def share(self) -> str:
        """The fractions as a table says them, such as "1 %, 3 %"."""
        return say_shares(self.fractions or (self.fraction,))


def say_shares(fractions: Sequence[float]) -> str:
    """Fractions in per cent."""
    return ", ".join(f"{100 * fraction:.3g} %" for fraction in fractions)


def _shares(given: Any) -> tuple[float, ...]:
    """Shares of all heads, as a file may hold them."""
    items = check_items("fractions", given, "a list of shares", error=ResultError)
    return tuple(
        check_number("fractions", share, least=0.0, most=1.0, error=ResultError) for share in items
    )


def as_arms(given: Any) -> tuple[Arm, ...]:
    """Arms, also as a file holds them."""
    names = {part.name for part in fields(Arm)}
    needed = names - {"fractions"}  # which arms of the first format do not say
    arms = check_items("arms", given, "a list of arms", error=ResultError)
    wrong = [
        arm
        for arm in arms
        if not (isinstance(arm, Arm) or (isinstance(arm, dict) and needed <= set(arm) <= names))
    ]
    if wrong or not arms:
        expected = f"a list of arms, each with {', '.join(sorted(names))}"
        refuse("arms", wrong or arms, expected, ResultError)
    return tuple(arm if isinstance(arm, Arm) else made_of(Arm, arm) for arm in arms)
