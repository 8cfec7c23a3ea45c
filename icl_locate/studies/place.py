"""Where answers are kept, and who runs what is missing: ``store=`` and ``executor=`` of a study.

A study's public function opens `using`; whatever it runs inside looks up `place_now`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from icl_locate.checks.arguments import refuse
from icl_locate.errors import ResultError, TaskError
from icl_locate.records.runs import RunRecord
from icl_locate.records.store import Store

_log = logging.getLogger(__name__)


class Work(Protocol):
    """Something to do with what a worker has loaded."""

    def run(self, loaded: Any) -> Any:
        """Do it, and give what came of it."""
        ...


Done = Callable[[Any, Any], None]
"""Takes a piece of work, and what came of it."""


@runtime_checkable
class Executor(Protocol):
    """Who does work, somewhere else."""

    def run(self, load: Callable[[], Any], works: Sequence[Any], on_done: Done) -> None:
        """Do every piece, in any order, and hand on what comes of it as it comes.

        Args:
            load: gives a worker, once, what every `Work` is done with.

        Raises:
            IclLocateError: when all that can be done is, if some could not.
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

    def take(self, units: Iterable[str]) -> None:
        """Note in the record, before they run, the units that the run takes."""
        if self.store is not None and self.record is not None:
            self.record.take(units)
            self.record.write(self.store)


_NOWHERE = Place()
_place: ContextVar[Place] = ContextVar("place", default=_NOWHERE)


def place_now() -> Place:
    """What the innermost `using` says."""
    return _place.get()


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
        _write_quietly(record, kept)  # the answers are there, and kept: they are not lost for it


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


def note_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe, which the record of the run that is going on holds, too, if it is its first."""
    place = _place.get()
    if place.store is not None and place.record is not None and not place.record.recipe:
        place.record.recipe = dict(recipe)
        place.record.write(place.store)
    return recipe
