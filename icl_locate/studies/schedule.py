"""What runs where: requests cut into units, those that a store holds read, the others run and kept.

A study's public function opens `using`; whatever it runs inside goes through `answer`.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from platform import node
from time import monotonic
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from icl_locate.checks.arguments import refuse
from icl_locate.engine.choice import Engine, choose_engine, holds_hooks
from icl_locate.engine.grid import answer_grid
from icl_locate.errors import ModelError, ResultError, TaskError
from icl_locate.hooks.holding import is_held
from icl_locate.metrics import Answers, Readout
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import fingerprint, hold_weights
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.runs import RunRecord
from icl_locate.records.store import Entry, Store, read_entry
from icl_locate.records.units import read_unit, write_unit
from icl_locate.studies.answers import pack, unpack
from icl_locate.studies.machine import describe_run
from icl_locate.studies.naming import check_named, describe_context, name_items, name_of
from icl_locate.studies.recipe import describe_value
from icl_locate.studies.units import Answered, Request, Table, Unit, Way

_log = logging.getLogger(__name__)
T = TypeVar("T")
Told = Callable[[int], object]
Seen = Callable[[Sequence[Answered]], object]
Taken = Callable[[Unit, Sequence[Answers]], None]


@runtime_checkable
class Executor(Protocol):
    """Who runs units that are missing."""

    def run(self, model: Model, units: Sequence[Unit], on_answer: Taken) -> None:
        """Run every unit, in any order, and hand on its answers as they come.

        Raises:
            IclLocateError: when all that can be run is, if some could not.
        """
        ...


@dataclass(frozen=True)
class Place:
    """Where answers are kept, and who runs what is missing.

    Attributes:
        store: ``None``: they are not kept.
        executor: ``None``: this process.
        record: of the run that is going on, in the store.
    """

    store: Store | None = None
    executor: Executor | None = None
    record: RunRecord | None = None


_NOWHERE = Place()
_place: ContextVar[Place] = ContextVar("place", default=_NOWHERE)


@contextmanager
def using(
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
    *,
    study: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Let what runs inside keep its answers in a store, and be run by an executor.

    What is ``None`` is as it was outside.

    Args:
        study: what runs, for the store's record of it.
        settings: the options that it was called with, for the same.

    Raises:
        ResultError: if nothing can be written to the store.
        TaskError: if the executor is none.
    """
    kept, executor = check_place(store, executor)
    outer = _place.get()
    place = replace(outer, executor=executor or outer.executor)
    if kept is None or kept == outer.store:
        with _at(place):
            yield
        return
    record = RunRecord.new(study, settings or {})
    record.write(kept)
    with _at(replace(place, store=kept, record=record)):
        try:
            yield
        except BaseException as error:
            record.end(error)
            _write_quietly(record, kept)
            raise
        record.end(None)
        record.write(kept)


def check_place(store: Any, executor: Any) -> tuple[Store | None, Executor | None]:
    """Where answers are kept and who runs them, checked before anything heavy is loaded.

    Raises:
        ResultError, TaskError: as `using` says.
    """
    if executor is not None and not isinstance(executor, Executor):
        refuse("executor", executor, "an icl_locate.RayExecutor, or None", TaskError)
    return None if store is None else Store.at(store), executor


@contextmanager
def _at(place: Place) -> Iterator[None]:
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def _write_quietly(record: RunRecord, store: Store) -> None:
    """Write a record where something worse happened already, such as a full disk."""
    try:
        record.write(store)
    except ResultError as error:
        _log.warning("how the run ended is not in the store: %s", error)


def note_recipe(recipe: Mapping[str, Any]) -> None:
    """Have the record of the run that is going on hold a recipe; the first one stands."""
    place = _place.get()
    if place.store is not None and place.record is not None and not place.record.recipe:
        place.record.recipe = dict(recipe)
        place.record.write(place.store)


def training_file(identity: Mapping[str, Any]) -> Path | None:
    """Where the store keeps the state of a training; ``None`` without a store."""
    store = _place.get().store
    return None if store is None else store.training(name_of(describe_value(identity)))


def answer_once(
    context: Mapping[str, Any],
    cell: Mapping[str, Any],
    items: Sequence[Any],
    readout: Readout,
    run: Callable[[], Answers],
) -> Answers:
    """Answers that are no run of `answer`, such as those of a tuned model: kept, or computed.

    Args:
        context, cell, items: what determines them, as JSON holds it: for all of a study, for these
            and for each of them.
    """

    def read(path: Path) -> Answers:
        found, tensors, rest = read_unit(path)
        (row,) = unpack(readout, tensors, rest, (1, len(found.items)), path)
        return row

    names = [name_of([i, item]) for i, item in enumerate(items)]
    said = {"context": context, "cell": cell}
    return _kept(said, names, read, run, lambda answers: pack(readout, [answers]))


def keep_tables(
    model: Model,
    prompts: Sequence[Prompts],
    said: Mapping[str, Any],
    compute: Callable[[], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Tensors that a study measures on some prompts: kept, or computed.

    Args:
        said: what determines them beside weights and prompts; values as `describe_value` takes.
    """
    if _place.get().store is None:
        return compute()
    _check_bare(model)
    cell = describe_value(said)
    check_named("what is measured", cell)
    context = {"fingerprint": fingerprint(model), "engine": "tables"}
    names = [name_of([i, n]) for i, n in enumerate(n for one in prompts for n in name_items(one))]
    return _kept(
        {"context": context, "cell": cell}, names, lambda path: read_unit(path)[1], compute,
        lambda tables: (tables, {}),
    )  # fmt: skip


def _kept(
    said: Mapping[str, Any],
    items: Sequence[str],
    read: Callable[[Path], T],
    compute: Callable[[], T],
    write: Callable[[T], tuple[Mapping[str, Tensor], Mapping[str, Any]]],
) -> T:
    """What a unit of one cell holds: read, or computed and kept."""
    place = _place.get()
    if place.store is None:
        return compute()
    entry = Entry.of(place.store, name_of(said["context"]), [name_of(said["cell"])], items)
    if place.record is not None:
        place.record.take([entry.label])
        place.record.write(place.store)
    if entry.path.is_file():
        try:
            return read(entry.path)
        except ResultError as error:
            _log.warning("what it held is computed again: %s", error)
    found = compute()
    tensors, rest = write(found)
    write_unit(entry, tensors, {**rest, **said, **describe_run()})
    return found


def answer(
    model: Model,
    requests: Sequence[Request],
    readout: Readout,
    *,
    engine: Engine | str,
    max_new_tokens: int,
    batch_size: int,
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
    place = _place.get()
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
    _check_bare(model)
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


def _check_bare(model: Model) -> None:
    """Refuse a model that is not what its weights say."""
    if holds_hooks(model) or is_held(model):
        raise ModelError(
            "the model holds hooks, or a context such as icl_locate.intervene is open around it, "
            "which the names of its answers do not tell: leave it, give alongside=..., or call "
            "without store and executor"
        )


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
            place.executor.run(self._model, units, self._keep)
        elif place.executor is None:
            for unit in self._in_turn(units):
                if not self._read_again(unit):
                    began = monotonic()
                    self._keep(unit, unit.answer(self._model, self._during(unit)))
                    size = len(unit.cells), len(unit.items)
                    _log.info("%d runs of %d prompts in %.1f s", *size, monotonic() - began)

    def _missing(self) -> list[Unit]:
        """The units that nobody has computed; what is kept is read, and the record says all."""
        store, record = self._place.store, self._place.record
        taken = [] if store is None else [*self._read(store)]
        found = [unit for table in self._tables for unit in table.missing()]
        units = list({(u.context, frozenset(u.cells), u.items): u for u in found}.values())
        if store is not None and record is not None:
            record.take([*taken, *(unit.entry(store).label for unit in units)])
            record.write(store)
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
