"""Results on disk: tensors in safetensors, everything else in JSON beside them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from icl_locate.errors import ResultError
from icl_locate.results import SweepResult

FORMAT = "icl_locate.SweepResult/1"
_TENSORS = ("statistics", "item_scores", "scores")
_LABELS = ("conditions", "layers", "seeds", "sources", "targets")


def save_result(result: SweepResult, path: Path) -> Path:
    """Write a result as ``path.safetensors`` and ``path.json``; returns the first."""
    tensors_path, json_path = _paths(path)
    tensors_path.parent.mkdir(parents=True, exist_ok=True)
    rest: dict[str, Any] = {name: list(getattr(result, name)) for name in _LABELS}
    rest |= {"format": FORMAT, "metric": result.metric, "texts": result.texts}
    rest |= {"provenance": dict(result.provenance)}
    text = json.dumps(rest, indent=1, ensure_ascii=False).encode()
    tensors = {name: getattr(result, name).contiguous() for name in _TENSORS}
    payload = save(tensors, metadata={"json_sha256": hashlib.sha256(text).hexdigest()})
    for target, content in ((json_path, text), (tensors_path, payload)):
        unfinished = target.with_name(f"{target.name}.part")
        unfinished.write_bytes(content)
        unfinished.replace(target)
    return tensors_path


def load_result(path: Path) -> SweepResult:
    """Read what `save_result` wrote.

    Raises:
        ResultError: if a file is missing, damaged, or not of this format.
    """
    tensors_path, json_path = _paths(path)
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
        raise ResultError(f"{path} is damaged ({error}): save the result again") from error
    if not isinstance(rest, dict) or rest.get("format") != FORMAT:
        raise ResultError(f"{json_path} is not a result: expected the format {FORMAT!r}")
    missing = [name for name in _TENSORS if name not in tensors]
    missing += [name for name in (*_LABELS, "metric", "texts", "provenance") if name not in rest]
    if missing:
        raise ResultError(f"{path} is damaged: it lacks {', '.join(missing)}; save it again")
    if digest != hashlib.sha256(text).hexdigest():
        raise ResultError(f"{json_path} does not belong to {tensors_path}: save the result again")
    return SweepResult(
        conditions=tuple(rest["conditions"]),
        layers=tuple(rest["layers"]),
        seeds=tuple(rest["seeds"]),
        statistics=tensors["statistics"],
        item_scores=tensors["item_scores"],
        scores=tensors["scores"],
        texts=rest["texts"],
        sources=tuple(rest["sources"]),
        targets=tuple(rest["targets"]),
        metric=rest["metric"],
        provenance=rest["provenance"],
    )


def _paths(path: Path) -> tuple[Path, Path]:
    known = path.suffix in (".safetensors", ".json")
    stem = path.with_suffix("") if known else path
    return (
        stem.with_name(stem.name + ".safetensors"),
        stem.with_name(stem.name + ".json"),
    )
