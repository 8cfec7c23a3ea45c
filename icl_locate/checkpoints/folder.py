"""The files of a measure over checkpoints: a directory a step, a file a measure, as results save.

``step1000/head_scores.safetensors`` is what `HeadScores.save` writes. Beside the results
``step1000/checkpoint.safetensors`` says which measure gave what, and of which checkpoint.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from icl_locate.errors import ResultError
from icl_locate.models.steps import step_of
from icl_locate.records.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from icl_locate.records.files import as_path
from icl_locate.records.saved import Saved

_FORM = "icl_locate.OverCheckpoints/1"
_ENTRY = "checkpoint"
_LABELS = ("label", "measures", "kinds")


class StepFolder:
    """The files of one step.

    Attributes:
        label: where its model came from.
        kinds: by the measure's name, the class of what it gave; in the order of their making.
        measures: by its name, what tells a measure from others; ``None`` where nobody said.
    """

    def __init__(self, directory: Path, step: int, label: str, files: Any = None) -> None:
        self.path, self.step, self.label = directory / f"step{step}", step, label
        self.recipe = {"step": step, "files": files}
        self.kinds: dict[str, str] = {}
        self.measures: dict[str, Any] = {}

    def read(self) -> None:
        """See what is there already.

        Raises:
            ResultError: if it is damaged, or of other weights.
        """
        found = load_checkpoint(self.path / _ENTRY, _FORM, self.recipe, labels=_LABELS)
        if found is not None:
            _, rest = found
            self.label, self.measures, self.kinds = (rest[name] for name in _LABELS)

    def has(self, name: str, measure: Any) -> bool:
        """Whether a measure's result is there.

        Raises:
            ResultError: if there is one of another measure of that name.
        """
        if name not in self.kinds:
            return False
        if self.measures.get(name) not in (None, measure):
            raise ResultError(
                f"{self.path} holds what another measure of the name {name!r} gave (other options, "
                "or another version of it): give another output, another name, or remove it"
            )
        return True

    def load(self, name: str) -> Saved:
        """What a measure gave."""
        return find_kind(self.kinds[name], self.path).load(self.path / name)

    def save(self, name: str, result: Saved, measure: Any = None) -> None:
        """Keep what a measure gave, and then note that it is there."""
        result.save(self.path / name)
        kind = type(result)
        self.kinds = {**self.kinds, name: f"{kind.__module__}.{kind.__qualname__}"}
        self.measures = {**self.measures, name: measure}
        rest = {"label": self.label, "measures": self.measures, "kinds": self.kinds}
        save_checkpoint(self.path / _ENTRY, _FORM, {}, rest, self.recipe)


def step_folders(directory: str | Path) -> list[StepFolder]:
    """All steps of a directory, the first one first.

    Raises:
        ResultError: if there is none, or one is damaged.
    """
    home = as_path(directory)
    found = []
    for path in sorted(home.iterdir()) if home.is_dir() else ():
        step = step_of(path.name)
        if step is not None and (path / f"{_ENTRY}.safetensors").is_file():
            _, rest = load_tensors(path / _ENTRY, _FORM, labels=(*_LABELS, "recipe"))
            folder = StepFolder(home, step, rest["label"], rest["recipe"].get("files"))
            folder.kinds, folder.measures = rest["kinds"], rest["measures"]
            found.append(folder)
    if not found:
        raise ResultError(
            f"{directory} holds no results over checkpoints: expected a directory that "
            "over_checkpoints wrote"
        )
    return sorted(found, key=lambda folder: folder.step)


def find_kind(name: str, path: Path) -> type[Saved]:
    """The class of a result by its full name: one of the package, or one that is imported already.

    Raises:
        ResultError: if there is none.
    """
    module, _, kind = name.rpartition(".")
    try:
        place = import_module(module) if module.startswith("icl_locate.") else sys.modules[module]
        found = getattr(place, kind)
    except (ImportError, KeyError, AttributeError, ValueError) as error:
        raise ResultError(
            f"{path} holds a {kind} of the module {module!r}, which is not there: import that "
            "module first"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Saved)):
        raise ResultError(f"{path} holds a {name}, which is no kind of result")
    return found


def check_file_name(name: str) -> None:
    """Refuse a measure's name that no file can have.

    Raises:
        ResultError: saying so.
    """
    if not name.replace("-", "_").isidentifier() or name == _ENTRY:
        raise ResultError(f"measure is named {name!r}: expected a word, which names its file")
