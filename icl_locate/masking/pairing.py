"""What two sweeps have in common: conditions to compare, items, and the draws of examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from icl_locate.checks.arguments import refuse
from icl_locate.errors import ResultError
from icl_locate.masking.result import SweepResult
from icl_locate.studies.intervals import Paired, Spread

_TOLD_BY = ("model", "revision", "task")
"""Of a recipe: what tells two sweeps apart in few words, beside the number of shots."""


@dataclass(frozen=True)
class Pairing:
    """What a second sweep shares with a first, and where that stands in it.

    Attributes:
        shared: "items and seeds", "items" or "nothing".
        seeds, items: places in the second sweep, in the first one's order as far as shared.
    """

    shared: Paired
    seeds: list[int]
    items: list[int]

    @classmethod
    def of(cls, a: SweepResult, b: SweepResult) -> "Pairing":
        """The one of two sweeps."""
        items, seeds = _places(_items(a), _items(b)), _places(a.seeds, b.seeds)
        own_seeds = list(range(len(b.seeds)))
        if items is None:
            return cls("nothing", own_seeds, list(range(len(b.sources))))
        if seeds is None or a.provenance.get("task") != b.provenance.get("task"):
            return cls("items", own_seeds, items)
        return cls("items and seeds", seeds, items)

    def arranged(self, spread: Spread) -> Spread:
        """The second sweep's scatter in the first one's order."""
        influence = spread.influence[..., self.seeds, :][..., self.items]
        return Spread(spread.scores[..., self.seeds], influence)


def choose_pairs(
    a: SweepResult, b: SweepResult | None, conditions: str | Sequence[str] | None
) -> list[tuple[str, str]]:
    """The conditions to set against each other; arguments and errors as in `compare`."""
    there = [name for name in a.conditions if b is None or name in b.conditions]
    has = "result_a has " + ", ".join(map(repr, a.conditions))
    if b is not None:
        has += "; result_b has " + ", ".join(map(repr, b.conditions))
    if not there:
        raise ResultError(f"no condition is in both sweeps: {has}")
    if b is None and conditions is None and len(there) < 2:
        raise ResultError(f"{has} alone: expected two conditions or more, or a result_b")
    names = (conditions,) if isinstance(conditions, str) else conditions
    chosen = list(there if names is None else names)
    least, expected = (1, "one or more of both sweeps") if b else (2, "two or more of one sweep")
    unfit = len(chosen) < least or len({*chosen}) < len(chosen) or not {*chosen} <= {*there}
    if unfit:
        refuse("conditions", chosen, f"{expected}, each once", ResultError, has)
    return [(name, name) for name in chosen] if b else list(combinations(chosen, 2))


def check_alike(a: SweepResult, b: SweepResult) -> None:
    """Refuse two sweeps whose scores are not of one kind, or that have a single item.

    Raises:
        ResultError: saying what differs.
    """
    told = [f"{each.metric} ({each.provenance.get('signature')})" for each in (a, b)]
    if told[0] != told[1]:
        raise ResultError(
            f"result_a is scored by {told[0]}, result_b by {told[1]}: scores of two metrics have "
            "no difference; run one of the sweeps again with the other's metric"
        )
    for name, each in (("result_a", a), ("result_b", b)):
        if len(each.sources) < 2:
            raise ResultError(
                f"{name} has one item: expected two or more, from whose scatter intervals are made"
            )


def told_apart(a: SweepResult, b: SweepResult) -> tuple[str, str]:
    """What to put behind a condition's name, so that a reader knows which sweep is meant."""
    recipes = a.provenance, b.provenance
    differ = [key for key in _TOLD_BY if recipes[0].get(key) != recipes[1].get(key)]
    found = [[str(recipe.get(key)) for key in differ] for recipe in recipes]
    shots = [recipe.get("n_shots") for recipe in recipes]
    if shots[0] != shots[1]:
        found = [
            [*words, f"{n} shot{'s' * (n != 1)}"] for words, n in zip(found, shots, strict=True)
        ]
    first, second = (", ".join(words) for words in found)
    return f" ({first or 'first'})", f" ({second or 'second'})"


def _items(result: SweepResult) -> list[tuple[str, str]]:
    return list(zip(result.sources, result.targets, strict=True))


def _places(wanted: Sequence[Any], there: Sequence[Any]) -> list[int] | None:
    """Where each of some things stands among the same in another order; ``None`` if others do."""
    ours, theirs = (sorted(range(len(x)), key=x.__getitem__) for x in (wanted, there))
    if [wanted[i] for i in ours] != [there[i] for i in theirs]:
        return None
    found = dict(zip(ours, theirs, strict=True))
    return [found[i] for i in range(len(wanted))]
