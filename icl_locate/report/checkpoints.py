"""What changed over the checkpoints of a training, as one self-contained HTML page, and as text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_locate.checkpoints import OverCheckpoints, Values
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.induction.scores import INDUCTION, HeadScores
from icl_locate.masking.result import SweepResult
from icl_locate.plots.checkpoints import over_checkpoints
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.sweep import location_rows
from icl_locate.report.tables import align_table, html_table

if TYPE_CHECKING:
    import pandas as pd

_PLACES = ("step", "hidden", "verdict", "layer", "interval", "floor", "ceiling")
_HEADS = ("step", "best head", "induction", f"heads of {INDUCTION} or more")


@checked(ResultError)
def write_checkpoint_report(
    path: str | Path, result: OverCheckpoints, *, confidence: float = 0.95
) -> Path:
    """Write one HTML page that needs nothing else: figure, tables by step, recipe.

    Args:
        confidence: of the recognition layers' intervals.
    """
    figure = html_figure(
        over_checkpoints(result, confidence=confidence),
        "Each measure over the training's steps, a panel each. The tables below have the numbers.",
    )
    tables = "".join(html_table(headers, rows) for headers, *rows in _tables(result, confidence))
    sections = [Section("Over the training", figure), Section("By step", tables)]
    first: dict[str, Any] = {
        name: dict(getattr(found[0], "provenance", {})) for name, found in result.results.items()
    }
    recipe = {"checkpoints": dict(zip(result.steps, result.labels, strict=True)), **first}
    model = next((found["model"] for found in first.values() if "model" in found), "a model")
    said = _finding(result, confidence)
    return write_page(path, f"Over the training: {model}", sections, recipe, finding=said)


def _finding(result: OverCheckpoints, confidence: float) -> list[str]:
    """How what was measured stands at the first step and at the last."""
    first, last = result.steps[0], result.steps[-1]
    said = [f"{len(result.steps)} checkpoints were measured, from step {first} to step {last}."]
    for name, (kind, *_) in result.results.items():
        if isinstance(kind, SweepResult):
            located = result.locate(name, confidence=confidence)
            pairs = zip(located[first], located[last], strict=True)
            said += [
                f"“{a.condition}” hidden: {a.label} at step {first}; {b.label} at step {last}."
                for a, b in pairs
            ]
        if isinstance(kind, HeadScores):
            *_, row = _head_rows(result, name)
            said.append(f"At step {last} the best induction head is {row[1]}, with {row[2]}.")
    return said


@checked(ResultError)
def checkpoint_tables(result: OverCheckpoints, *, confidence: float = 0.95) -> str:
    """The recognition layers and the best heads of each step, for a terminal.

    Args:
        confidence: of the recognition layers' intervals.
    """
    tables = [align_table(headers, rows) for headers, *rows in _tables(result, confidence)]
    return "\n\n".join(tables)


def _tables(result: OverCheckpoints, confidence: float) -> list[list[tuple[str, ...]]]:
    """A table for each measure that has one, its headers before its rows."""
    found = []
    for name, (first, *_) in result.results.items():
        if isinstance(first, SweepResult):
            found.append([_PLACES, *step_rows(result, name, confidence)])
        if isinstance(first, HeadScores):
            found.append([_HEADS, *_head_rows(result, name)])
        if isinstance(first, Values) and first.numbers:
            found.append([("step", *first.numbers), *_number_rows(result, name)])
    return found


def step_rows(
    result: OverCheckpoints, measure: str | None = None, confidence: float = 0.95
) -> list[tuple[str, ...]]:
    """The recognition layers as text, a row for each step and condition."""
    located = result.locate(measure, confidence=confidence)
    return [
        (str(step), *row[:4], *row[6:8])
        for step, places in located.items()
        for row in location_rows(places)
    ]


def location_frame(
    result: OverCheckpoints, measure: str | None = None, confidence: float = 0.95
) -> "pd.DataFrame":
    """The recognition layers as a table: step, condition, verdict, layer, low, high and scores."""
    import pandas as pd

    rows = [
        (step, found.condition, found.verdict, found.layer, *(found.interval or (None, None)),
         found.floor, found.ceiling)
        for step, places in result.locate(measure, confidence=confidence).items()
        for found in places
    ]  # fmt: skip
    names = ["step", "condition", "verdict", "layer", "low", "high", "floor", "ceiling"]
    whole = dict.fromkeys(("layer", "low", "high"), "Int64")
    return pd.DataFrame(rows, columns=names).astype(whole)


def _head_rows(result: OverCheckpoints, measure: str) -> list[tuple[str, ...]]:
    """The best head of each step, and how many are induction heads."""
    rows: list[tuple[str, ...]] = []
    for step, scores in result.of(measure).items():
        found = scores.induction
        layer, head = divmod(int(found.argmax()), found.shape[1])
        n_found = str(int((found >= INDUCTION).sum()))
        rows.append(
            (str(step), f"{layer}.{head}", f"{round(float(found.max()), 3) + 0.0:.3f}", n_found)
        )
    return rows


def _number_rows(result: OverCheckpoints, measure: str) -> list[tuple[str, ...]]:
    return [
        (str(step), *(f"{value:.4g}" for value in found.numbers.values()))
        for step, found in result.of(measure).items()
    ]
