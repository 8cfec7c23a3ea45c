"""Requests cut into units: those that a store holds are read, the others run and kept."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from platform import node
from time import monotonic
from typing import Any

from icl_locate.engine.choice import Engine, choose_engine
from icl_locate.engine.grid import answer_grid
from icl_locate.errors import ResultError
from icl_locate.metrics import Answers, Readout
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.records.store import Entry, Store, read_entry
from icl_locate.records.units import read_unit, write_unit
from icl_locate.studies.answers import pack, unpack
from icl_locate.studies.kept import check_bare
from icl_locate.studies.machine import describe_run
from icl_locate.studies.naming import describe_context, name_of
from icl_locate.studies.place import Done, Place, place_now
from icl_locate.studies.units import Answered, Request, Table, Unit, Way
from icl_locate.studies.workers import ModelLoader

_log = logging.getLogger(__name__)
Told = Callable[[int], object]
Seen = Callable[[Sequence[Answered]], object]


def run_works(load: Callable[[], Any], loaded: Any, works: Sequence[Any], on_done: Done) -> None:
    """Do some work: by the executor that is in use, or here.

    Args:
        load: gives a worker what the work is done with.
        loaded: the same, in this process.
    """
    executor = place_now().executor
    if executor is not None:
        executor.run(load, works, on_done)
        return
    for work in works:
        on_done(work, work.run(loaded))


def answer(
    model: Model,
    requests: Sequence[Request],
    readout: Readout,
    *,
    engine: Engine | str = "auto",
    max_new_tokens: int,
    batch_size: int = 64,
    token_budget: int | None = None,
    on_progress: Told = lambda _: None,
    on_answers: Seen = lambda _: None,
) -> list[list[Answers]]:
    """The answers to each request, for each of its runs: read where they are kept, else run.

    Args:
        engine, max_new_tokens, batch_size, token_budget: as `answer_grid` takes them.
        on_progress: told how many more of all requests' runs are done.
        on_answers: shown what is known of each request, whenever that is more.

    Raises:
        ModelError: if the shared engine was asked for, and cannot run these; if answers are to be
            kept of a model that holds hooks.
        ResultError: if a unit cannot be kept; those before it are.
    """
    place = place_now()
    if place.store is None and place.executor is None:
        found: list[list[Answers]] = []
        for one in requests:
            found.append(
                answer_grid(
                    model, one.prompts, one.runs, readout, engine=engine,
                    max_new_tokens=max_new_tokens, batch_size=batch_size,
                    token_budget=token_budget, on_progress=on_progress,
                )
            )  # fmt: skip
            on_answers(found)
        return found
    check_bare(model)
    readout.require()
    tables: list[Table] = []
    said: dict[str, Any] = {}
    with hold_weights(model):
        for one in requests:
            chosen = choose_engine(model, engine, one.runs)
            way = Way(readout, chosen, max_new_tokens, batch_size, token_budget)
            context = describe_context(model, readout, chosen, max_new_tokens)
            tables.append(Table(one, way, name_of(context)))
            said[tables[-1].context] = context
        _Schedule(model, place, tables, said, on_progress, on_answers).run()
    return [list(table.rows) for table in tables]


class _Schedule:
    """The units of some requests on their way."""

    def __init__(
        self,
        model: Model,
        place: Place,
        tables: Sequence[Table],
        contexts: Mapping[str, Any],
        on_progress: Told,
        on_answers: Seen,
    ) -> None:
        self._model, self._place, self._tables, self._contexts = model, place, tables, contexts
        self._tell, self._n_told, self._show = on_progress, 0, on_answers
        self._devices = {weight.device for weight in model.original_model.parameters()}

    def run(self) -> None:
        """Read what is kept, and run the rest."""
        place, units = self._place, self._missing()
        n_kept = sum(table.n_known for table in self._tables)
        _log.info("%d answers are kept, %d units are to run", n_kept, len(units))
        if place.executor is not None and units:
            load = ModelLoader.of(self._model, getattr(place.executor, "load", None))
            place.executor.run(load, units, self._keep)
        elif place.executor is None:
            for unit in self._in_turn(units):
                if not self._read_again(unit):
                    began = monotonic()
                    self._keep(unit, unit.run(self._model, self._during(unit)))
                    size = len(unit.cells), len(unit.items)
                    _log.info("%d runs of %d prompts in %.1f s", *size, monotonic() - began)

    def _missing(self) -> list[Unit]:
        """The units that nobody has computed; what is kept is read, and the record says all."""
        store = self._place.store
        taken = [] if store is None else [*self._read(store)]
        found = [unit for table in self._tables for unit in table.missing()]
        units = list({(u.context, frozenset(u.cells), u.items): u for u in found}.values())
        if store is not None:
            self._place.take([*taken, *(unit.entry(store).label for unit in units)])
        return units

    def _read(self, store: Store) -> Iterator[str]:
        """Take all that a store holds of what is asked for, and name the units."""
        for context in self._contexts:
            tables = [table for table in self._tables if table.context == context]
            wanted = set[str]().union(*(table.items for table in tables))
            for entry in store.entries(context):
                if wanted.intersection(entry.items) and self._take_kept(entry):
                    yield entry.label

    def _in_turn(self, units: list[Unit]) -> list[Unit]:
        """The units from one on that differs between processes: several of them share the work."""
        if self._place.store is None or not units:
            return units
        mine = sha256(f"{node()} {os.getpid()}".encode()).digest()
        start = int.from_bytes(mine[:8], "big") % len(units)
        return units[start:] + units[:start]

    def _read_again(self, unit: Unit) -> bool:
        """Take a unit that somebody else has written since."""
        store = self._place.store
        path = None if store is None else unit.entry(store).path
        if path is None or not path.is_file():
            return False
        try:
            return self._take_kept(read_entry(path))
        except ResultError:
            return False

    def _take_kept(self, entry: Entry) -> bool:
        """Take the answers of a kept unit, if it is whole and answers anything asked here."""
        tables = [table for table in self._tables if table.context == entry.context]
        if not any(table.asks(entry.cells, entry.items) for table in tables):
            return False
        try:
            entry, tensors, rest = read_unit(entry.path)
            shape = len(entry.cells), len(entry.items)
            answers = unpack(tables[0].way.readout, tensors, rest, shape, entry.path)
        except ResultError as error:
            _log.warning("what it held is computed again: %s", error)
            return False
        for table in tables:
            table.fill(entry.cells, entry.items, answers)
        self._report()
        return True

    def _keep(self, unit: Unit, answers: Sequence[Answers]) -> None:
        """Keep a unit's answers, and take them."""
        store = self._place.store
        if store is not None:
            tensors, rest = pack(unit.way.readout, answers)
            made = {"context": self._contexts[unit.context], **describe_run(self._devices)}
            write_unit(unit.entry(store), tensors, rest | made)
        for table in self._tables:
            if table.context == unit.context:
                table.fill(unit.cells, unit.items, answers)
        self._report()

    def _during(self, unit: Unit) -> Told:
        """What takes the number of runs of a unit that are done, while it is under way."""
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            self._report(done * len(unit.items))

        return tell

    def _report(self, n_under_way: int = 0) -> None:
        """Tell how many more runs are done, answers that are under way included."""
        known = sum(table.n_known / table.n_prompts for table in self._tables)
        done = int(known + n_under_way / max(table.n_prompts for table in self._tables) + 1e-9)
        if done > self._n_told:
            self._tell(done - self._n_told)
            self._n_told = done
        if not n_under_way:
            self._show([table.rows for table in self._tables])
