"""Reading what tasks are stored in: lines of text, JSON lines, CSV, and the Hugging Face Hub."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icl_locate.errors import TaskError


def read_text(path: Path) -> str:
    """A UTF-8 file's text, unpacked if its name ends in ``.gz``.

    Raises:
        TaskError: if it is missing, packed wrongly, or not UTF-8.
    """
    if not path.is_file():
        raise TaskError(f"there is no file {path}")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error
    except (OSError, EOFError) as error:
        raise TaskError(f"{path} cannot be read ({error})") from error


def read_lines(path: Path) -> list[str]:
    """A file's lines, without their ends; the last one may lack its line break."""
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_records(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The records of a file, each with at least these fields.

    Raises:
        TaskError: naming file and line, if one is malformed or lacks a field.
    """
    return [require_fields(record, fields, place) for place, record in read_placed(path)]


def read_placed(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The records of a file behind the place of each, such as "mine.csv, line 2".

    A ``.csv`` file has a header and a record a row; any other holds a JSON object a line.

    Raises:
        TaskError: naming file and line, if one is malformed; if there are none.
    """
    found = _rows(path) if path.suffix == ".csv" else _objects(path)
    if not found:
        raise TaskError(f"{path} holds no records: expected at least one")
    return found


def _objects(path: Path) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TaskError(f"{place} is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise TaskError(f"{place} is a {type(record).__name__}: expected an object")
        found.append((place, record))
    return found


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        return [(f"{path}, line {rows.line_num}", dict(row)) for row in rows]
    except csv.Error as error:
        raise TaskError(f"{path}, line {rows.line_num} is not CSV ({error})") from error


def read_dataset(
    name: str, split: str, fields: Sequence[str], config: str | None = None
) -> list[dict[str, Any]]:
    """The rows of one split of a data set: on the Hub, or a directory in `datasets`' own format.

    Raises:
        TaskError: if it cannot be loaded (with how to get it), or lacks a column.
    """
    import datasets

    try:
        if (Path(name) / "dataset_dict.json").is_file():
            rows = datasets.load_from_disk(name)[split]
        else:
            rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:
        where = f"{name}, {config}" if config else name
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise TaskError(
            f"the data set {where} (split {split}) could not be loaded ({why}): is this machine "
            "online, and are you logged in (huggingface-cli login) where access must be asked for? "
            "Else download it, and give its directory or file"
        ) from error
    return [require_fields(dict(row), fields, f"{name}, row {i}") for i, row in enumerate(rows)]


def require_fields(record: dict[str, Any], fields: Sequence[str], where: str) -> dict[str, Any]:
    """The record, if it has all these fields.

    Raises:
        TaskError: naming the field that is missing.
    """
    for name in fields:
        if record.get(name) is None:
            held = ", ".join(map(repr, record)) or "nothing"
            raise TaskError(f"{where} has no {name!r}: it holds {held}")
    return record
