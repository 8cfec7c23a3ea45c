"""Units: what is run in one piece and kept in one file, and a study's requests cut into them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from icl_locate.engine.grid import answer_grid
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import Answers, Readout
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Entry, Store
from icl_locate.studies.naming import is_by_prompt, name_cells, name_items, name_of

MISSING = object()
"""Stands in a table of answers where none is known."""


Answered = Sequence[Sequence[Any]]
"""For each run of a request an answer to each prompt, or `MISSING`."""


@dataclass(frozen=True)
class Request:
    """Prompts, and what is done to the model while it answers them.

    Attributes:
        runs: the interventions; an answer to each prompt is wanted under each of them.
    """

    prompts: Prompts
    runs: Sequence[Intervention]


@dataclass(frozen=True)
class Way:
    """How units are run.

    Attributes:
        readout: what is read off a run.
        engine: "shared" or "hooks".
        batch_size: prompts that run at once, at most; a unit holds no more.
        token_budget: as in `answer_grid`.
    """

    readout: Readout
    engine: str
    max_new_tokens: int
    batch_size: int
    token_budget: int | None


@dataclass(frozen=True)
class Unit:
    """Some prompts under some interventions: a rectangle of answers.

    Attributes:
        context: the name of what its answers have in common with others of a call.
        cells, items: the names of the runs and of the prompts.
    """

    prompts: Prompts
    runs: tuple[Intervention, ...]
    way: Way
    context: str
    cells: tuple[str, ...]
    items: tuple[str, ...]

    def entry(self, store: Store) -> Entry:
        """Its file in a store, and what that says."""
        return Entry.of(store, self.context, self.cells, self.items)

    def run(
        self, loaded: Model, on_progress: Callable[[int], object] = lambda _: None
    ) -> list[Answers]:
        """Run it on a model; an answer for each run and prompt.

        Args:
            on_progress: told how many more of the runs are done.
        """
        way = self.way
        return answer_grid(
            loaded, self.prompts, self.runs, way.readout, engine=way.engine,
            max_new_tokens=way.max_new_tokens, batch_size=way.batch_size,
            token_budget=way.token_budget, on_progress=on_progress,
        )  # fmt: skip


class Table:
    """The answers to a request, as they come in.

    Attributes:
        way: how what is missing is run.
        context: the name of what they have in common with others.
        rows: an answer for each run and prompt, or `MISSING`.
        n_known: how many are there.
    """

    def __init__(self, request: Request, way: Way, context: str) -> None:
        self._request, self.way, self.context = request, way, context
        n, size = len(request.prompts), way.batch_size
        self._shards = [range(start, min(start + size, n)) for start in range(0, n, size)]
        self._cells = self._name_cells()
        self._items = self._name_items()
        self._runs_of = [_places_of(names) for names in self._cells]
        self._places_of = [_places_of([self._items[i] for i in some]) for some in self._shards]
        self.rows: list[list[Any]] = [[MISSING] * n for _ in request.runs]
        self.n_known = 0

    @cached_property
    def _varies(self) -> bool:
        """Whether a run holds something for each prompt."""
        return any(map(is_by_prompt, self._request.runs))

    def _name_cells(self) -> list[list[str]]:
        """The names of the runs on each portion of the prompts."""
        runs = self._request.runs
        if not self._varies:
            return [name_cells(runs)] * len(self._shards)
        return [name_cells([run.take(some) for run in runs]) for some in self._shards]

    def _name_items(self) -> list[str]:
        """The names of the prompts; with their places, where a run's values go by them."""
        names, size = name_items(self._request.prompts), self.way.batch_size
        return [name_of([n, i % size]) for i, n in enumerate(names)] if self._varies else names

    @property
    def items(self) -> set[str]:
        """The names of the prompts."""
        return set(self._items)

    @property
    def n_prompts(self) -> int:
        """How many there are."""
        return len(self._items)

    def asks(self, cells: Sequence[str], items: Sequence[str]) -> bool:
        """Whether any answer of a unit is asked for here."""
        return any(
            not runs_of.keys().isdisjoint(cells) and not places_of.keys().isdisjoint(items)
            for runs_of, places_of in zip(self._runs_of, self._places_of, strict=True)
        )

    def fill(self, cells: Sequence[str], items: Sequence[str], answers: Sequence[Answers]) -> None:
        """Take what some unit answers, as far as it is asked for here."""
        portions = zip(self._shards, self._runs_of, self._places_of, strict=True)
        for some, runs_of, places_of in portions:
            wanted = [
                (j, some.start + place)
                for j, item in enumerate(items)
                for place in places_of.get(item, ())
            ]
            for cell, found in zip(cells, answers, strict=True) if wanted else ():
                for run in runs_of.get(cell, ()):
                    for j, place in wanted:
                        self.n_known += self.rows[run][place] is MISSING
                        self.rows[run][place] = found[j]

    def missing(self) -> Iterator[Unit]:
        """Units of what is not known; of runs of one name and prompts of one name the first."""
        for number, some in enumerate(self._shards):
            runs = [places[0] for places in self._runs_of[number].values()]
            by_runs: dict[tuple[int, ...], list[int]] = {}
            for place in (some.start + places[0] for places in self._places_of[number].values()):
                unknown = tuple(run for run in runs if self.rows[run][place] is MISSING)
                if unknown:
                    by_runs.setdefault(unknown, []).append(place)
            for unknown, places in by_runs.items():
                yield self._unit(unknown, places, self._cells[number])

    def _unit(self, runs: Sequence[int], places: Sequence[int], names: Sequence[str]) -> Unit:
        return Unit(
            prompts=self._request.prompts.take(places),
            runs=tuple(self._request.runs[i].take(places) for i in runs),
            way=self.way,
            context=self.context,
            cells=tuple(names[i] for i in runs),
            items=tuple(self._items[i] for i in places),
        )


def _places_of(names: Sequence[str]) -> dict[str, list[int]]:
    """Where each name stands."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return found
