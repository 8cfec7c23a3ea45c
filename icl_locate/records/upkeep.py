"""Looking after a store: which files are damaged, what several have together, what nobody needs."""

import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from platform import node

from icl_locate.errors import ResultError
from icl_locate.records.files import replace_file
from icl_locate.records.runs import RUN, RunRecord, read_run, run_files
from icl_locate.records.sealed import damaged, unseal
from icl_locate.records.store import UNIT, Entry, Store, read_entry

_LEFT_OVER = 3600.0  # seconds after which a file that is half written has no writer any more


@dataclass(frozen=True)
class Damage:
    """A file that is not what it should be, and why."""

    path: Path
    why: str


def open_store(place: Path) -> Store:
    """A store that is there already.

    Raises:
        ResultError: if there is none.
    """
    store = Store(place)
    if not any(each.is_dir() for each in store.folders):
        raise ResultError(f"{place} is no store: expected a directory that --store or store= named")
    return store


def read_runs(store: Store) -> dict[str, RunRecord | None]:
    """The records of all runs by name, the oldest first; ``None`` where one is damaged."""
    return {path.stem: _read_or_none(path) for path in run_files(store)}


def find_damage(store: Store) -> Iterator[Damage]:
    """The files of a store that are damaged, or are not what their names say; reads all of it."""
    for path in _files(store):
        try:
            _check(path, store)
        except ResultError as error:
            yield Damage(path, str(error))


def merge(into: Store, sources: Iterable[Store]) -> dict[str, int]:
    """Copy what other stores hold into one; what is there already, and whole, stays.

    Only the record of a run that has gone on since is replaced: else units that it takes later
    would seem to be of no use.

    Returns:
        How many files were "copied", "there" already, and "damaged" and so left out.

    Raises:
        ResultError: if one cannot be written; those before it are.
    """
    counts = {"copied": 0, "there": 0, "damaged": 0}
    for source in sources:
        for path in _files(source):
            target = into.directory / path.relative_to(source.directory)
            if _is_whole(target, into) and not _has_gone_on(path, target):
                counts["there"] += 1
            elif _is_whole(path, source):
                replace_file(target, [path.read_bytes()])
                counts["copied"] += 1
            else:
                counts["damaged"] += 1
    return counts


def _has_gone_on(path: Path, target: Path) -> bool:
    """Whether a record says more of a run than another of the same run."""
    record, known = (_read_or_none(each) if _is_run(each) else None for each in (path, target))
    if record is None or known is None:
        return False
    ended = known.state == "running" != record.state
    return ended or len(record.units) > len(known.units)


@dataclass(frozen=True)
class Waste:
    """What a store can do without.

    Attributes:
        store: the store.
        leftovers: files that were never finished.
        damaged: units and trainings that cannot be read.
        unused: units that no record of a run takes.
        runs: records that were asked to go.
    """

    store: Store
    leftovers: tuple[Path, ...]
    damaged: tuple[Path, ...]
    unused: tuple[Path, ...]
    runs: tuple[Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (*self.runs, *self.leftovers, *self.damaged, *self.unused)

    def remove(self) -> None:
        """Remove them, but for what a run has taken or written anew since; what is gone is."""
        taken = _taken(self.store, {path.stem for path in self.runs})
        for path in (*self.runs, *self.leftovers):
            _remove(path)
        for path in self.damaged:
            if not _is_whole(path, self.store):
                _remove(path)
        for path in self.unused:
            if taken is not None and _label(path) not in taken:
                _remove(path)


def _remove(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():  # a directory is none of ours
        path.unlink(missing_ok=True)


def _taken(store: Store, gone: Collection[str]) -> set[str] | None:
    """The units that runs take, but for those of some; ``None`` where a record is damaged.

    Of a record that cannot be read nobody knows what it takes.
    """
    left = [record for name, record in read_runs(store).items() if name not in gone]
    found = set[str]()
    for record in left:
        if record is None:
            return None
        found |= record.units.keys()
    return found


def find_waste(store: Store, runs: Sequence[str] = ()) -> Waste:
    """What a store can do without, once the records of some runs are gone.

    A damaged record stays, and all units with it, until it is named.

    Args:
        runs: names of runs whose records, and units that no other run takes, are to go.

    Raises:
        ResultError: if there is no such run, or one that is still running.
    """
    records = read_runs(store)
    for name in runs:
        record = records.get(name)
        if name not in records:
            known = ", ".join(sorted(records)) or "none"
            raise ResultError(f"there is no run {name!r} in {store.directory}: it holds {known}")
        if record is not None and state_of(record) == "running":
            raise ResultError(f"the run {name!r} is still going on: stop it first")
    # Units first, records last: what a run writes meanwhile, its record says by then.
    units = [path for context in store.contexts() for path in store.files(context)]
    broken = {damage.path for damage in find_damage(store) if not _is_run(damage.path)}
    taken = _taken(store, runs)
    unused = [path for path in units if taken is not None and _label(path) not in taken]
    return Waste(
        store,
        leftovers=tuple(_leftovers(store)),
        damaged=tuple(sorted(broken)),
        unused=tuple(path for path in unused if path not in broken),
        runs=tuple(store.runs / f"{name}.safetensors" for name in runs),
    )


def state_of(record: RunRecord) -> str:
    """A record's state; "killed" where it says "running", and its process is gone."""
    if record.state != "running" or record.host != node():
        return str(record.state)
    try:
        os.kill(record.process, 0)
    except ProcessLookupError:
        return "killed"
    except (OSError, OverflowError):  # somebody else's, or a number that none has
        pass
    return "running"


def kept_units(store: Store) -> set[str]:
    """``context/name`` of every unit that is there, by the files' names alone."""
    return {_label(path) for context in store.contexts() for path in store.files(context)}


def _label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def _files(store: Store) -> list[Path]:
    """All files of a store that are named as its own are."""
    units = [path for context in store.contexts() for path in store.files(context)]
    return [*run_files(store), *store.trainings(), *units]


def _leftovers(store: Store) -> list[Path]:
    """Files that somebody began to write, long ago."""
    found = []
    for folder in store.folders:
        for path in folder.rglob(".icl_locate-*.part"):
            try:
                if time.time() - path.stat().st_mtime > _LEFT_OVER:
                    found.append(path)
            except OSError:  # finished in between
                continue
    return found


def _check(path: Path, store: Store) -> None:
    """Refuse a file that is not what its place and name say."""
    if _is_run(path):
        unseal(path, RUN)
        read_run(path)
    elif path.parent.parent.name == "units":
        unseal(path, UNIT)
        entry = read_entry(path)
        if Entry.of(store, entry.context, entry.cells, entry.items).path.name != path.name:
            damaged(path, "it answers something else than its name says")
    else:
        unseal(path, None)


def _is_run(path: Path) -> bool:
    """Whether a file of a store is where the records of runs are."""
    return path.parent.name == "runs"


def _is_whole(path: Path, store: Store) -> bool:
    try:
        _check(path, store)
    except ResultError:
        return False
    return True


def _read_or_none(path: Path) -> RunRecord | None:
    try:
        return read_run(path)
    except ResultError:
        return None
