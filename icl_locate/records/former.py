"""Results of the first format, which were two files: tensors, and JSON beside them.

The tensors' header holds a digest of the JSON. Of the tensors there is none: damage to them shows
only where they contradict each other, which is why such results are checked once more when they
are read (`Saved._check_former`). Nothing is written in this format.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from icl_locate.errors import ResultError
from icl_locate.records.checkpoint import saved_path, unpack
from icl_locate.records.files import describe
from icl_locate.records.sealed import Sealed, other_kind, parse, read_header

_DIGEST = re.compile(rb'"json_sha256":"([0-9a-f]{64})"')
_NONE = "none: there were no such files in the first format"


def load_former(
    path: str | Path, form: str | None, names: Iterable[str], labels: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read two files of the first format; ``None`` if the file is not of it, or not to be read.

    Args:
        form: what they should hold, such as "icl_locate.SweepResult/1".
        names, labels: the tensors and the other fields that must be there.

    Raises:
        ResultError: if the JSON is missing or of another result, or they are not of this form.
    """
    target = saved_path(path)
    found = _read(target)
    if found is None:
        return None
    data, digest = found
    beside = target.with_suffix(".json")
    rest = parse(_text_of(beside, target, digest), beside)
    if form is None or rest.get("format") != form:
        other_kind(target, rest.get("format"), form or _NONE)
    return unpack(target, Sealed(data, rest), names, labels)


def _read(target: Path) -> tuple[bytes, str] | None:
    """A file of the first format, and the digest of the JSON that belongs to it."""
    try:
        with target.open("rb") as file:
            header = read_header(file, target)
            found = _DIGEST.search(header)
            return None if found is None else (header + file.read(), found[1].decode())
    except (OSError, ValueError):  # whoever reads the present format says what is the matter
        return None


def _text_of(beside: Path, target: Path, digest: str) -> bytes:
    """The JSON beside the tensors, as it was written with them."""
    try:
        text = beside.read_bytes()
    except OSError as error:
        raise ResultError(
            f"{target} is of the first format, which had a .json beside it, and that cannot be "
            f"read, {describe(error)}: put back the {beside.name} that was saved with it, or run "
            "again"
        ) from error
    if hashlib.sha256(text).hexdigest() != digest:
        raise ResultError(
            f"{beside} is damaged, or of another result than {target}: put back the one that was "
            "saved with it, or run again"
        )
    return text
