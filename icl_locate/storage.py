"""Tensors with their labels on disk: safetensors, and JSON beside it; no pickle."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from icl_locate.errors import ResultError


def save_tensors(
    path: str | Path, form: str, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> Path:
    """Write ``path.safetensors`` and ``path.json``; returns the first.

    Args:
        form: what the files hold, such as "icl_locate.SweepResult/1"; `load_tensors` checks it.
        rest: everything that is no tensor, as JSON can hold it.
    """
    tensors_path, json_path = saved_paths(Path(path))
    tensors_path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**rest, "format": form}, indent=1, ensure_ascii=False).encode()
    digest = hashlib.sha256(text).hexdigest()
    solid = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    payload = save(solid, metadata={"json_sha256": digest})
    for target, content in ((json_path, text), (tensors_path, payload)):
        unfinished = target.with_name(f"{target.name}.part")
        unfinished.write_bytes(content)
        unfinished.replace(target)
    return tensors_path


def load_tensors(
    path: str | Path, form: str, names: Iterable[str], labels: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Args:
        names, labels: the tensors and the other fields that must be there.

    Raises:
        ResultError: if a file is missing, damaged, or not of this form.
    """
    tensors_path, json_path = saved_paths(Path(path))
    for needed in (tensors_path, json_path):
        if not needed.is_file():
            raise ResultError(f"there is no {needed}: expected the two files that save() wrote")
    try:
        text = json_path.read_bytes()
        rest = json.loads(text)
        with safe_open(tensors_path, "pt") as file:
            digest = (file.metadata() or {}).get("json_sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ResultError(f"{path} is damaged ({error}): save it again") from error
    if not isinstance(rest, dict) or rest.get("format") != form:
        raise ResultError(f"{json_path} is not a result: expected the format {form!r}")
    missing = [name for name in names if name not in tensors]
    missing += [name for name in labels if name not in rest]
    if missing:
        raise ResultError(f"{path} is damaged: it lacks {', '.join(missing)}; save it again")
    if digest != hashlib.sha256(text).hexdigest():
        raise ResultError(f"{json_path} does not belong to {tensors_path}: save it again")
    return tensors, rest


def save_checkpoint(
    path: str | Path,
    form: str,
    tensors: Mapping[str, Tensor],
    rest: Mapping[str, Any],
    recipe: Mapping[str, Any],
) -> Path:
    """Write ``path.safetensors`` with everything else in its metadata.

    One file that takes the place of the last at once: a process that is killed while it writes
    leaves the last one whole.

    Args:
        recipe: what the training is; `load_checkpoint` refuses any other.
    """
    target, _ = saved_paths(Path(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    solid = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**rest, "recipe": recipe, "format": form})
    unfinished = target.with_name(f"{target.name}.part")
    unfinished.write_bytes(save(solid, metadata={"json": text}))
    unfinished.replace(target)
    return target


def load_checkpoint(
    path: str | Path, form: str, recipe: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what `save_checkpoint` wrote; ``None`` if there is nothing.

    Raises:
        ResultError: if the file is damaged, not of this form, or of another recipe.
    """
    target, _ = saved_paths(Path(path))
    if not target.exists():
        return None
    try:
        with safe_open(target, "pt") as file:
            rest = json.loads((file.metadata() or {}).get("json", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (json.JSONDecodeError, SafetensorError) as error:
        raise ResultError(f"{target} is damaged ({error}): remove it to begin anew") from error
    if rest.get("format") != form:
        raise ResultError(f"{target} is no checkpoint of this kind: expected the format {form!r}")
    differs = [name for name, value in recipe.items() if rest["recipe"].get(name) != value]
    if differs:
        raise ResultError(
            f"the checkpoint {target} belongs to another training (other {', '.join(differs)}): "
            "give another path, or remove it"
        )
    return tensors, rest


def saved_paths(path: Path) -> tuple[Path, Path]:
    """The two files of a path: with either suffix, or with none (a dot in a name is no suffix)."""
    known = path.suffix in (".safetensors", ".json")
    stem = path.with_suffix("") if known else path
    return (
        stem.with_name(stem.name + ".safetensors"),
        stem.with_name(stem.name + ".json"),
    )
