"""Which rows of each run must be computed: the rest is the clean run's, or reaches nothing.

A row of a layer is changed if the run may differ from the clean run there: it is touched by an
intervention, or sees a changed row. It is needed if it reaches the readout. Active rows are both,
and are computed; static rows are unchanged, and serve as keys from the clean run's cache; what no
row needs is dropped. Runs that have the same rows and hide the same cells go through a layer as one
group, whatever they did before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.engine.shared.acts import Acts, Hiding
from icl_locate.engine.shared.group import Group
from icl_locate.engine.shared.rows import Rows
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.edits import Edit

T = TypeVar("T")
_NOTHING = Hiding.of(())


@dataclass(frozen=True)
class Plan:
    """What is computed for some runs.

    Attributes:
        acts: what each run does.
        places: for each intervention that was planned its run; ``None`` if it does nothing.
        groups: of each layer.
        positions: of the prompts.
    """

    acts: tuple[Acts, ...]
    places: tuple[int | None, ...]
    groups: tuple[tuple[Group, ...], ...]
    positions: Positions = field(repr=False)

    @property
    def n_runs(self) -> int:
        """How many runs there are, the clean one aside."""
        return len(self.acts)

    @cached_property
    def padding(self) -> Int[Tensor, "batch one"]:
        """How many positions of each prompt are padding."""
        padded = self.positions.segments == Segment.PAD
        return padded.long().cumprod(dim=1).sum(dim=1)[:, None]

    def entering(self, layer: int) -> dict[int, tuple[Edit, ...]]:
        """The edits of what enters a layer, of each run that has any."""
        every = enumerate(self.acts)
        return {run: acts.entering[layer] for run, acts in every if layer in acts.entering}

    def only(self, runs: Sequence[int]) -> "Plan":
        """The plan of some of the runs, numbered anew in that order."""
        number = {run: i for i, run in enumerate(runs)}
        groups = tuple(
            tuple(
                replace(group, runs=tuple(number[run] for run in group.runs if run in number))
                for group in some
                if not number.keys().isdisjoint(group.runs)
            )
            for some in self.groups
        )
        acts = tuple(self.acts[run] for run in runs)
        return Plan(acts, tuple(range(len(acts))), groups, self.positions)

    def most_held(self) -> list[int]:
        """The most keys that each run holds at a layer: shared ones count once, for all."""
        return self._most(lambda group: group.n_held)

    def most_rows(self) -> list[int]:
        """The most rows of each run that are computed at a layer."""
        return self._most(lambda group: group.active.width)

    def _most(self, count: Callable[[Group], int]) -> list[int]:
        found = [0] * self.n_runs
        for group in (group for some in self.groups for group in some):
            for run in group.runs:
                found[run] = max(found[run], count(group))
        return found


def plan_runs(
    acts: Sequence[Acts],
    positions: Positions,
    readout: Bool[Tensor, "batch pos"],
    n_layers: int,
    n_heads: int,
    *,
    drop: bool,
    continues: bool = False,
    device: torch.device | str = "cpu",
) -> Plan:
    """Plan runs by rows; those that do the same are one.

    Args:
        acts: what each intervention does.
        positions: of the prompts, with what is scored behind them.
        readout: the rows that are read out.
        drop: whether rows that need not be computed are left out; else a run keeps all rows from
            its first layer on.
        continues: whether tokens are generated behind the prompts, which see them.
        device: where the rows are used.
    """
    planner = _Planner(positions, readout, n_layers, n_heads, drop=drop, continues=continues)
    numbers: dict[object, int] = {}
    places = [
        None if each.start is None else numbers.setdefault(each.key, len(numbers)) for each in acts
    ]
    runs = tuple(dict(zip(places, acts, strict=True))[i] for i in range(len(numbers)))
    members: list[dict[tuple[int, int, int, Hiding], list[int]]] = [{} for _ in range(n_layers)]
    for number, each in enumerate(runs):
        for layer, key in planner.steps(each):
            members[layer].setdefault(key, []).append(number)
    groups = tuple(
        tuple(
            Group(
                tuple(runs_there),
                planner.rows(static, device),
                planner.rows(feeding, device),
                planner.rows(active, device),
                hiding,
            )
            for (static, feeding, active, hiding), runs_there in by_key.items()
        )
        for by_key in members
    )
    return Plan(runs, tuple(places), groups, positions)


class _Planner:
    """Sets of positions by number, so that runs which share them are planned once."""

    def __init__(
        self,
        positions: Positions,
        readout: Bool[Tensor, "batch pos"],
        n_layers: int,
        n_heads: int,
        *,
        drop: bool,
        continues: bool,
    ) -> None:
        self._positions, self._n_layers, self._n_heads = positions, n_layers, n_heads
        self._drop, self._continues = drop, continues
        self._sets: list[Tensor] = []
        self._numbers: dict[bytes, int] = {}
        self._memory: dict[tuple[object, ...], object] = {}
        self._rows: dict[int, Rows] = {}
        self._real = positions.segments != Segment.PAD
        self._readout = self._number(readout.cpu())
        self._none = self._number(torch.zeros_like(self._real))
        self._all = self._number(torch.ones_like(self._real))

    def rows(self, number: int, device: torch.device | str) -> Rows:
        """A set as rows; the same object for the same set."""
        if number not in self._rows:
            self._rows[number] = Rows.where(self._sets[number]).to(device)
        return self._rows[number]

    def steps(self, acts: Acts) -> list[tuple[int, tuple[int, int, int, Hiding]]]:
        """The layers that a run goes through: its static, feeding and active rows, and cells."""
        if acts.start is None:
            return []
        if not self._drop:
            return [
                (layer, (self._none, self._none, self._all, acts.hiding.get(layer, _NOTHING)))
                for layer in range(acts.start, self._n_layers)
            ]
        changed = self._changed(acts)
        needed, found = self._readout, []
        for layer in reversed(range(acts.start, self._n_layers)):
            hiding = acts.hiding.get(layer, _NOTHING)
            entering, leaving = changed[layer]
            static, feeding, active, needed = self._once(
                self._choose, hiding, entering, leaving, needed
            )
            if active != self._none or self._continues:
                found.append((layer, (static, feeding, active, hiding)))
        return found[::-1]

    def _changed(self, acts: Acts) -> dict[int, tuple[int, int]]:
        """For each layer the rows that enter it and leave it changed."""
        now, found = self._none, {}
        for layer in range(acts.start or 0, self._n_layers):
            entering = self._join(now, acts.entering.get(layer, ()))
            touched = self._join(self._none, acts.inside.get(layer, ()))
            now = self._once(self._reach, acts.hiding.get(layer, _NOTHING), entering, touched)
            found[layer] = entering, now
        return found

    def _join(self, some: int, edits: Sequence[Edit]) -> int:
        """A set with the rows that edits touch."""
        touched = [self._real if e.touched is None else e.touched.cpu() & self._real for e in edits]
        return self._number(reduce(torch.logical_or, touched, self._sets[some])) if edits else some

    def _reach(self, hiding: Hiding, entering: int, touched: int) -> int:
        """The rows that leave a layer changed."""
        changed = self._sets[entering]
        found = changed | self._sets[touched]
        if hiding.masks:
            hit, visible = self._once(self._look, hiding)
            found = found | hit | (visible & changed[:, None]).any(dim=-1)
        else:
            found = found | (changed.cumsum(dim=1) > 0)
        return self._number(found & self._real)

    def _choose(
        self, hiding: Hiding, entering: int, leaving: int, needed: int
    ) -> tuple[int, int, int, int]:
        """A layer's static, feeding and active rows, and those it needs of the layer below."""
        queries = self._sets[leaving] & self._sets[needed]
        if hiding.masks:
            visible = self._once(self._look, hiding)[1]
            keys = (visible & queries[:, :, None]).any(dim=1)
        else:
            keys = queries.flip(1).cumsum(dim=1).flip(1) - queries.long() > 0
        if self._continues:
            keys = keys | ~hiding.later(self._positions, self._n_heads)
        keys = keys & self._real
        own = self._sets[entering] & keys
        # where texts go on, the keys that are kept for them are those of active rows
        active = queries | own if self._continues else queries
        static = keys & ~self._sets[entering] & ~active
        return (
            self._number(static),
            self._number(own & ~active),
            self._number(active),
            self._number(self._sets[needed] | own),
        )

    def _look(
        self, hiding: Hiding
    ) -> tuple[Bool[Tensor, "batch query_pos"], Bool[Tensor, "batch query_pos key_pos"]]:
        """The rows from which any head hides anything, and the earlier keys that any head sees."""
        by_any, by_all = hiding.by_any_and_all(self._positions, self._n_heads)
        return by_any.any(dim=-1), (~by_all).tril(-1)

    def _once(self, function: Callable[..., T], *arguments: object) -> T:
        """What a method gives, computed once for the same arguments."""
        key = (function.__name__, *arguments)
        if key not in self._memory:
            self._memory[key] = function(*arguments)
        found: T = self._memory[key]  # type: ignore[assignment]
        return found

    def _number(self, some: Bool[Tensor, "batch pos"]) -> int:
        number = self._numbers.setdefault(some.numpy().tobytes(), len(self._sets))
        if number == len(self._sets):
            self._sets.append(some)
        return number
