"""A directory of units: answers that are computed once, each whole or not there, by any writers.

A unit is a file named by the digest of everything that determines it; what it says never changes.
Its header tells which cells and items it answers, so that a store is searched without reading
answers. Beside the units stand the records of runs: what was asked, and which units it takes.
Nothing here takes torch: a store is listed at once.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from icl_locate.errors import IclLocateError, ResultError
from icl_locate.records.files import as_path, check_output
from icl_locate.records.sealed import damaged, read_summary

UNIT = "icl_locate.Unit/1"
NAME = re.compile(r"[0-9a-f]{32}")
"""What contexts, cells, items and units are called."""
_UNITS, _RUNS, _TRAININGS = "units", "runs", "trainings"
_SUFFIX = ".safetensors"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What the header of a unit says of it.

    Attributes:
        path: its file.
        context: what all its answers have in common with others: weights, readout, engine.
        cells: what was done to the model in each of its runs.
        items: the prompts.
    """

    path: Path
    context: str
    cells: tuple[str, ...]
    items: tuple[str, ...]

    @property
    def label(self) -> str:
        """What records of runs call it."""
        return f"{self.context}/{self.path.stem}"

    @classmethod
    def of(
        cls, store: "Store", context: str, cells: Sequence[str], items: Sequence[str]
    ) -> "Entry":
        """A unit that is to be written: its name is the digest of all that it answers."""
        said = "/".join([context, *sorted(cells), "", *items])
        name = sha256(said.encode()).hexdigest()[: len(context)]
        return cls(store.path(context, name), context, tuple(cells), tuple(items))


@dataclass(frozen=True)
class Store:
    """Where units are kept.

    Attributes:
        directory: made if it is not there.
    """

    directory: Path
    _known: dict[Path, Entry] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def at(cls, place: object) -> "Store":
        """The store of a directory, which is tried: files must find room there.

        Raises:
            ResultError: if it is no path, or nothing can be written there.
        """
        if isinstance(place, Store):
            return place
        directory = as_path(place, "store")
        try:
            check_output(directory)
        except IclLocateError as error:
            raise ResultError(f"store is {str(directory)!r}: {error}") from error
        return cls(directory.absolute())  # a program may go elsewhere meanwhile

    @property
    def runs(self) -> Path:
        """Where the records of runs are."""
        return self.directory / _RUNS

    @property
    def folders(self) -> list[Path]:
        """The directories that make it up."""
        return [self.directory / name for name in (_UNITS, _RUNS, _TRAININGS)]

    def trainings(self) -> list[Path]:
        """The files of all trainings' states."""
        folder = self.directory / _TRAININGS
        return [folder / name for name in _names(folder) if NAME.fullmatch(Path(name).stem)]

    def training(self, name: str) -> Path:
        """The file of a training's state."""
        return self.directory / _TRAININGS / f"{name}{_SUFFIX}"

    def path(self, context: str, name: str) -> Path:
        """The file of a unit."""
        return self.directory / _UNITS / context / f"{name}{_SUFFIX}"

    def entries(self, context: str) -> Iterator[Entry]:
        """The units of a context, whose headers are read once; a damaged one is warned of."""
        for path in self.files(context):
            entry = self._known.get(path) or read_or_warn(path)
            if entry is not None:
                self._known[path] = entry
                yield entry

    def contexts(self) -> list[str]:
        """The names of all contexts."""
        return [name for name in _names(self.directory / _UNITS) if NAME.fullmatch(name)]

    def files(self, context: str) -> list[Path]:
        """The files of a context that are named as units are, by name."""
        names = _names(self.directory / _UNITS / context)
        stems = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return [self.path(context, stem) for stem in stems if NAME.fullmatch(stem)]


def _names(directory: Path) -> list[str]:
    """What is in a directory; nothing if it is not there."""
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []


def read_or_warn(path: Path) -> Entry | None:
    """What the header of a unit says; ``None``, and a warning, if it is none."""
    try:
        return read_entry(path)
    except ResultError as error:
        _log.warning("what it held is computed again: %s", error)
        return None


def read_entry(path: Path) -> Entry:
    """What the header of a unit says.

    Raises:
        ResultError: if the file is none of ours, or says what none of ours would.
    """
    return entry_of(path, read_summary(path, UNIT))


def entry_of(path: Path, said: Mapping[str, Any]) -> Entry:
    """What the summary in a header says.

    Raises:
        ResultError: if it says what none of ours would.
    """
    if said.get("context") != path.parent.name:
        damaged(path, "it is of another context than its directory")
    cells, items = (_read_names(path, said, name) for name in ("cells", "items"))
    return Entry(path, path.parent.name, cells, items)


def _read_names(path: Path, said: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of distinct names that a header holds."""
    listed = said.get(name)
    if not isinstance(listed, list) or not listed:
        damaged(path, f"its {name} are no list")
    if not all(isinstance(one, str) and NAME.fullmatch(one) for one in listed):
        damaged(path, f"its {name} are no digests")
    if len({*listed}) < len(listed):
        damaged(path, f"its {name} stand there twice")
    return tuple(listed)
