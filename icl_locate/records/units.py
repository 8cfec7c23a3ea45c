"""Units on disk: tensors and texts of answers, with a header that says which they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from icl_locate.records.checkpoint import save_tensors, unpack
from icl_locate.records.sealed import unseal
from icl_locate.records.store import UNIT, Entry, entry_of


def write_unit(entry: Entry, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Keep a unit; when this returns it is on the disk.

    Raises:
        ResultError: if it cannot be written; nothing is left of it then.
    """
    said = {"context": entry.context, "cells": entry.cells, "items": entry.items}
    save_tensors(entry.path, UNIT, tensors, rest, summary=said)


def read_unit(path: Path) -> tuple[Entry, dict[str, Tensor], dict[str, Any]]:
    """A unit, of which every byte is right: its header, its tensors and its other fields.

    Raises:
        ResultError: if it is damaged.
    """
    found = unseal(path, UNIT)  # read once: another process may put a like file in its place
    return entry_of(path, found.summary(path)), *unpack(path, found, (), ())
