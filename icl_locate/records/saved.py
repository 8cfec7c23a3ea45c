"""Values that a file can hold: their tensors, and the rest of their fields as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from icl_locate.checks.contents import made_of
from icl_locate.records.checkpoint import load_tensors, save_tensors
from icl_locate.records.former import load_former

T = TypeVar("T", bound="Saved")


class Saved:
    """What gives a frozen dataclass ``save`` and ``load``; it checks its fields when it is made.

    Args:
        form: what its files are called, such as "icl_locate.SweepResult/2".
        tensors, labels: the fields that are tensors, and the other ones that are saved.
        later: tensors that files of earlier versions lack; their fields' defaults stand then.
        former: what its files were called in the first format, if there were any.
    """

    _form: ClassVar[str]
    _tensors: ClassVar[tuple[str, ...]]
    _labels: ClassVar[tuple[str, ...]]
    _later: ClassVar[tuple[str, ...]]
    _former: ClassVar[str | None]

    def __init_subclass__(
        cls,
        *,
        form: str,
        tensors: tuple[str, ...],
        labels: tuple[str, ...],
        later: tuple[str, ...] = (),
        former: str | None = None,
    ) -> None:
        super().__init_subclass__()
        cls._form, cls._tensors, cls._labels, cls._later = form, tensors, labels, later
        cls._former = former

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (.safetensors), in place of the last one at once; no pickle.

        Raises:
            ResultError: if it cannot be written; the last file is then as it was.
        """
        known = [name for name in self._later if getattr(self, name) is not None]
        tensors = {name: getattr(self, name) for name in (*self._tensors, *known)}
        rest = {name: _plain(getattr(self, name)) for name in self._labels}
        return save_tensors(path, self._form, tensors, rest)

    @classmethod
    def load(cls: type[T], path: str | Path) -> T:
        """Read what `save` wrote, now or in the first format, two files.

        Raises:
            ResultError: if the file is missing, damaged, or not of this format.
        """
        former = load_former(path, cls._former, cls._tensors, cls._labels)
        tensors, rest = former or load_tensors(path, cls._form, cls._tensors, cls._labels)
        known = [name for name in cls._later if name in tensors]
        fields: dict[str, Any] = {name: tensors[name] for name in (*cls._tensors, *known)}
        made = made_of(cls, fields | {name: rest[name] for name in cls._labels})
        if former:
            made._check_former()
        return made

    def _check_former(self) -> None:
        """Refuse what contradicts itself: tensors of the first format have no digest."""


def _plain(value: Any) -> Any:
    """A field as JSON holds it."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
