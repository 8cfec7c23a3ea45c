"""Answers as files hold them: numbers as tensors, texts as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl_locate.errors import ResultError
from icl_locate.metrics import Answers, LabelChoice, Readout

_CHOICE = ("label", "uncalibrated")


def pack(readout: Readout, answers: Sequence[Answers]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The answers of some cells ``[cell][item]``."""
    if not readout.gives_text:
        return {"numbers": torch.tensor([list(row) for row in answers], dtype=torch.float64)}, {}
    if readout.calibrates:
        return {}, {name: [[getattr(a, name) for a in row] for row in answers] for name in _CHOICE}
    return {}, {"texts": [[str(answer) for answer in row] for row in answers]}


def unpack(
    readout: Readout,
    tensors: Mapping[str, Tensor],
    rest: Mapping[str, Any],
    shape: tuple[int, int],
    path: Path,
) -> list[list[Any]]:
    """What `pack` was given.

    Args:
        shape: how many cells and items there must be.
        path: the file, for words.

    Raises:
        ResultError: if the file holds no such answers.
    """
    if not readout.gives_text:
        numbers = tensors.get("numbers")
        if numbers is None or tuple(numbers.shape) != shape or numbers.dtype != torch.float64:
            raise ResultError(f"{path} holds no table of {shape} numbers: remove it")
        table: list[list[Any]] = numbers.tolist()
        return table
    names = _CHOICE if readout.calibrates else ("texts",)
    tables = [_texts(rest.get(name), shape, path) for name in names]
    if not readout.calibrates:
        return tables[0]
    rows = zip(*tables, strict=True)
    return [[LabelChoice(*pair) for pair in zip(*row, strict=True)] for row in rows]


def _texts(value: Any, shape: tuple[int, int], path: Path) -> list[list[Any]]:
    """A table of texts of this shape."""
    rows = value if isinstance(value, list) else []
    fits = all(isinstance(row, list) and len(row) == shape[1] for row in rows)
    if (
        len(rows) == shape[0]
        and fits
        and all(isinstance(text, str) for row in rows for text in row)
    ):
        return rows
    raise ResultError(f"{path} holds no table of {shape} texts: remove it")
