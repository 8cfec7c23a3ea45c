"""The format of our files: safetensors, JSON among its tensors, and a digest of every byte.

The digest stands in the file's header, and is taken with zeros in its place: names, types, shapes,
numbers, texts and the header itself cannot change unnoticed. It tells damage, not forgery: anybody
can compute it, so what a file holds is checked by those who read it.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from icl_locate.errors import ResultError
from icl_locate.records.files import as_path, describe

KEY = "icl_locate"  # of the header's metadata
SUMMARY = "summary"  # of the header's metadata, too
JSON = "json"  # the tensor of bytes that holds the rest: a header holds no more than 100 MB
_EMPTY = "0" * 64
_STAMP = re.compile(rb'"%s":"([\w./-]+) sha256:([0-9a-f]{64})"' % KEY.encode())
_FORMER = b'"json_sha256":'
_LONGEST_HEADER = 10_000_000


@dataclass(frozen=True)
class Sealed:
    """A whole file: its bytes, for safetensors to read, its JSON, and its form."""

    data: bytes
    rest: dict[str, Any]
    form: str = ""

    def summary(self, path: Path) -> dict[str, Any]:
        """What its header says of it.

        Raises:
            ResultError: if that is no summary.
        """
        return _summary_of(self.data[: 8 + int.from_bytes(self.data[:8], "little")], path)


def stamp(form: str, summary: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The metadata of a file that `seal` will close.

    Args:
        form: what it holds, such as "icl_locate.SweepResult/2".
        summary: what `read_summary` will find without reading the rest of the file.
    """
    said = {} if summary is None else {SUMMARY: json.dumps(summary, allow_nan=False)}
    return {KEY: f"{form} sha256:{_EMPTY}", **said}


def encode(rest: Mapping[str, Any]) -> bytes:
    """Everything that is no tensor, as JSON.

    Raises:
        ResultError: if JSON cannot hold it.
    """
    try:
        return json.dumps(rest, indent=1, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultError(f"this cannot be saved as JSON: {describe(error)}") from error


def seal(payload: bytes) -> list[bytes | memoryview]:
    """The pieces of a file of safetensors that `stamp` marked, with its digest in its place."""
    start = payload.index(_EMPTY.encode())
    view = memoryview(payload)
    return [view[:start], hashlib.sha256(payload).hexdigest().encode(), view[start + len(_EMPTY) :]]


def read_rest(path: str | Path) -> dict[str, Any]:
    """The JSON of a file of any form.

    Raises:
        ResultError: if it is missing or damaged.
    """
    return unseal(path, None).rest


def read_summary(path: str | Path, form: str) -> dict[str, Any]:
    """What the header of a file says of it; that the rest is whole is not known yet.

    Raises:
        ResultError: if it is missing, has no such header, or is not of this form.
    """
    path = as_path(path)
    try:
        _require_file(path)
        with path.open("rb") as file:
            header = read_header(file, path)
    except (OSError, MemoryError) as error:
        raise ResultError(f"{path} cannot be read: {describe(error)}") from error
    _find_stamp(header, path, form)
    return _summary_of(header, path)


def _require_file(path: Path) -> None:
    """Refuse what is none: whoever opens a pipe may wait for ever."""
    if not path.is_file():
        raise ResultError(f"there is no {path}: expected the file that save() wrote")


def _summary_of(header: bytes, path: Path) -> dict[str, Any]:
    try:
        text = str(json.loads(header[8:])["__metadata__"][SUMMARY])
    except (ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        damaged(path, f"its header cannot be read, {describe(error)}", error)
    return parse(text.encode(), path)


def unseal(path: str | Path, form: str | None) -> Sealed:
    """Read a file and check that it is whole.

    Args:
        form: what it should hold; ``None`` means anything.

    Raises:
        ResultError: if it is missing, damaged or not of this form.
    """
    path = as_path(path)
    try:
        _require_file(path)
        with path.open("rb") as file:
            header = read_header(file, path)
            found = _find_stamp(header, path, form)
            _check_length(file, header, path)
            data = header + file.read()
    except (OSError, MemoryError) as error:
        raise ResultError(f"{path} cannot be read: {describe(error)}") from error
    taken, (start, end) = hashlib.sha256(), found.span(2)
    for piece in (memoryview(data)[:start], _EMPTY.encode(), memoryview(data)[end:]):
        taken.update(piece)
    if taken.hexdigest().encode() != data[start:end]:
        damaged(path, "its digest is another one")
    return Sealed(data, _decode(data, path), found[1].decode())


def is_sealed(path: Path) -> bool:
    """Whether a file is one of ours, of this format or the first; adapters are not.

    Raises:
        ResultError: if it cannot be read.
    """
    if not path.is_file():  # whoever opens a pipe may wait for ever
        return False
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, _LONGEST_HEADER))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {describe(error)}") from error
    return _STAMP.search(header) is not None or _FORMER in header


def read_header(file: BinaryIO, path: Path) -> bytes:
    """The beginning of a file of safetensors, up to its tensors."""
    header = file.read(8)
    length = int.from_bytes(header, "little")
    if length > _LONGEST_HEADER:  # nothing else of a foreign file is read
        damaged(path, "it does not begin as such a file does")
    return header + file.read(length)


def _check_length(file: BinaryIO, header: bytes, path: Path) -> None:
    """Refuse a file that is longer than its header says, before all of it is read."""
    try:
        tensors = [one for name, one in json.loads(header[8:]).items() if name != "__metadata__"]
        said = len(header) + max(one["data_offsets"][1] for one in tensors)
        whole = os.fstat(file.fileno()).st_size == said
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        damaged(path, f"its header cannot be read, {describe(error)}", error)
    if not whole:
        damaged(path, "it is of another length than its header says")


def _find_stamp(header: bytes, path: Path, form: str | None) -> re.Match[bytes]:
    """The form and the digest in the header of a file of this form."""
    found = _STAMP.search(header)
    if found is None and _FORMER in header:
        raise ResultError(
            f"{path} is of the first format, which had a .json beside it: the load() of a result's "
            "class reads it, if it is one; training goes on from no such file: remove it to begin "
            "anew"
        )
    if found is None:
        damaged(path, f"it has no stamp of {KEY}")
    if form is not None and found[1].decode() != form:
        other_kind(path, found[1].decode(), form)
    return found


def _decode(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON of a file whose digest is right; what it says may be anything."""
    begin = 8 + int.from_bytes(data[:8], "little")
    try:
        start, end = json.loads(data[8:begin])[JSON]["data_offsets"]
        text = data[begin + start : begin + end]
    except (ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        damaged(path, f"its header cannot be read, {describe(error)}", error)
    return parse(text, path)


def parse(text: bytes, path: Path) -> dict[str, Any]:
    """The JSON of a file."""
    try:
        rest = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError, MemoryError) as error:
        damaged(path, f"its JSON cannot be read, {describe(error)}", error)
    if not isinstance(rest, dict):
        damaged(path, "its JSON is no object")
    return rest


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def other_kind(path: Path, holds: object, form: str) -> NoReturn:
    """Refuse a file of another form."""
    raise ResultError(
        f"{path} is not a result of this kind: it holds {holds!r}, expected the form {form!r}"
    )


def damaged(path: Path, why: str, error: BaseException | None = None) -> NoReturn:
    """Refuse what is no whole file of ours."""
    raise ResultError(f"{path} is damaged, or none of our files ({why}): save it again") from error
