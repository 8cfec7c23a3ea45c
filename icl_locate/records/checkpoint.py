"""Tensors with their labels on disk: one file of safetensors, written at once; no pickle."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from icl_locate.errors import ResultError
from icl_locate.records.files import as_path, replace_file
from icl_locate.records.sealed import JSON, Sealed, encode, seal, stamp, unseal


def save_tensors(
    path: str | Path,
    form: str,
    tensors: Mapping[str, Tensor],
    rest: Mapping[str, Any],
    *,
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``path.safetensors``, which takes the place of the last at once; returns its path.

    Args:
        form: what it holds, such as "icl_locate.SweepResult/2"; `load_tensors` checks it.
        rest: everything that is no tensor, as JSON can hold it.
        summary: what `read_summary` finds without reading the rest.

    Raises:
        ResultError: if it cannot be written; the last file is then as it was.
    """
    target = saved_path(path)
    text = torch.frombuffer(bytearray(encode(rest)), dtype=torch.uint8)
    solid = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return replace_file(target, seal(save({**solid, JSON: text}, metadata=stamp(form, summary))))


def load_tensors(
    path: str | Path, form: str, names: Iterable[str] = (), labels: Iterable[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Args:
        names, labels: the tensors and the other fields that must be there.

    Raises:
        ResultError: if the file is missing, damaged, or not of this form.
    """
    target = saved_path(path)
    return unpack(target, unseal(target, form), names, labels)


def load_any(path: str | Path) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote of any form: the form, the tensors, the rest.

    Raises:
        ResultError: if the file is missing or damaged.
    """
    target = saved_path(path)
    found = unseal(target, None)
    return (found.form, *unpack(target, found, (), ()))


def unpack(
    target: Path, found: Sealed, names: Iterable[str], labels: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a whole file and its other fields, if those that must be there are."""
    try:
        tensors = load(found.data)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ResultError(f"{target} is damaged ({error}): save it again") from error
    tensors.pop(JSON, None)
    missing = [name for name in names if name not in tensors]
    missing += [name for name in labels if name not in found.rest]
    if missing:
        raise ResultError(f"{target} is damaged: it lacks {', '.join(missing)}; save it again")
    return tensors, found.rest


def save_checkpoint(
    path: str | Path,
    form: str,
    tensors: Mapping[str, Tensor],
    rest: Mapping[str, Any],
    recipe: Mapping[str, Any],
) -> Path:
    """Write ``path.safetensors`` as `save_tensors` does.

    Args:
        recipe: what the training is; `load_checkpoint` refuses any other.
    """
    return save_tensors(path, form, tensors, {**rest, "recipe": recipe})


def load_checkpoint(
    path: str | Path,
    form: str,
    recipe: Mapping[str, Any],
    names: Iterable[str] = (),
    labels: Iterable[str] = (),
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what `save_checkpoint` wrote; ``None`` if there is nothing.

    Raises:
        ResultError: if the file is damaged, not of this form, or of another recipe.
    """
    target = saved_path(path)
    if not target.exists():
        return None
    try:
        tensors, rest = load_tensors(target, form, names, [*labels, "recipe"])
    except ResultError as error:
        raise ResultError(f"{error}; or remove it to begin anew") from error
    kept = rest["recipe"] if isinstance(rest["recipe"], dict) else {}
    differs = [name for name, value in recipe.items() if kept.get(name) != value]
    if differs:
        raise ResultError(
            f"the checkpoint {target} belongs to another training (other {', '.join(differs)}): "
            "give another path, or remove it"
        )
    return tensors, rest


def saved_path(path: str | Path) -> Path:
    """The file of a path: with its suffix, or with none (a dot in a name is no suffix).

    Raises:
        ResultError: if it names no file.
    """
    given = as_path(path)
    stem = given.with_suffix("") if given.suffix in (".safetensors", ".json") else given
    if not stem.name:
        raise ResultError(f"path is {str(path)!r}: expected the name of a file")
    return stem.with_name(f"{stem.name}.safetensors")
