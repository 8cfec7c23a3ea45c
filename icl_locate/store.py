"""Sweep results on disk."""

from pathlib import Path
from typing import Any

from icl_locate.results import SweepResult
from icl_locate.storage import load_tensors, save_tensors

FORM = "icl_locate.SweepResult/1"
_TENSORS = ("statistics", "item_scores", "scores")
_LABELS = ("conditions", "layers", "seeds", "sources", "targets")


def save_result(result: SweepResult, path: Path) -> Path:
    """Write a result as ``path.safetensors`` and ``path.json``; returns the first."""
    rest: dict[str, Any] = {name: list(getattr(result, name)) for name in _LABELS}
    rest |= {"metric": result.metric, "texts": result.texts}
    rest |= {"provenance": dict(result.provenance)}
    return save_tensors(path, FORM, {name: getattr(result, name) for name in _TENSORS}, rest)


def load_result(path: Path) -> SweepResult:
    """Read what `save_result` wrote.

    Raises:
        ResultError: if a file is missing, damaged, or not of this format.
    """
    tensors, rest = load_tensors(path, FORM, _TENSORS, (*_LABELS, "metric", "texts", "provenance"))
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
