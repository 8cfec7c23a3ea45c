"""What vectors do where they are put in, as one self-contained HTML page, and as text."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.plots.vectors import strength_curves, transfer_curves
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.recipe import FUNCTION_VECTORS, IN_CONTEXT_VECTORS, TASK_VECTORS
from icl_locate.report.tables import align_table, html_table, paragraphs
from icl_locate.vectors import LayerScores, Peak, StrengthScores, TaskVectors, locate_peak

Scores = TaskVectors | LayerScores | StrengthScores
_WHAT = {
    TaskVectors: """A task vector is the state at the last token of prompts with examples, of other
queries, after one layer. Here it takes the place of the state at the last token of prompts without
examples, after the same layer. The layer is chosen on the dev queries; the test queries say what it
is worth there.""",
    LayerScores: """A function vector is what some heads add to the residual stream at the last
token of prompts with examples, on average. Here it is added once, at the last token, after one
layer.""",
    StrengthScores: """In-context vectors are the directions from sources to targets, at every
layer. Here they turn the states of every token that way, by a strength.""",
}

_PAPERS = {
    TaskVectors: TASK_VECTORS,
    LayerScores: FUNCTION_VECTORS,
    StrengthScores: IN_CONTEXT_VECTORS,
}


@checked(ResultError)
def write_vector_report(
    path: str | Path, result: Scores, peak: Peak | None = None, *, confidence: float = 0.95
) -> Path:
    """Write one HTML page that needs nothing else: figure, table, recipe.

    Args:
        peak: of the curve over layers, as `locate_peak` found it.
    """
    if isinstance(result, StrengthScores):
        figure = strength_curves(result, confidence=confidence)
    else:
        figure = transfer_curves(result, peak, confidence=confidence)
    what = next(text for kind, text in _WHAT.items() if isinstance(result, kind))
    recipe = result.provenance
    headers, *rows = _rows(result, peak)
    drawn = html_figure(
        figure, "What vectors do by layer or strength, beside controls and levels without them."
    )
    sections = [
        Section("How to read it", paragraphs([what])),
        Section("Curves", drawn),
        Section("Scores", html_table(headers, rows)),
    ]
    said = [] if peak is None else [f"Over the layers: {peak.label}."]
    said += [f"{name}: {value}." for name, value in rows if name != "over layers"]
    title = f"Vectors: {recipe.get('task')} in {recipe.get('model')}"
    papers = [paper for kind, paper in _PAPERS.items() if isinstance(result, kind)]
    return write_page(path, title, sections, recipe, finding=said, papers=papers)


@checked(ResultError)
def peak_of(result: Scores, confidence: float = 0.95) -> Peak | None:
    """The peak of the vector's curve over layers; ``None`` where there are only strengths."""
    if isinstance(result, StrengthScores):
        return None
    curve = result if isinstance(result, TaskVectors) else result.curve()
    return locate_peak(curve, confidence=confidence)


@checked(ResultError)
def vector_table(result: Scores, peak: Peak | None = None) -> str:
    """What was found, as a table for a terminal."""
    headers, *rows = _rows(result, peak)
    return align_table(headers, rows)


def _rows(result: Scores, peak: Peak | None) -> list[tuple[str, str]]:
    """What a reader asks first, each with its answer, under a header."""
    rows = [("", result.metric.replace("_", " "))]
    if isinstance(result, TaskVectors):
        table = result.test_table().to_dict("records")
        rows += [(f"{row['arm']}, test queries", _score(row)) for row in table]
        rows.append(("best layer, by dev queries", str(result.best_layer)))
    else:
        rows.append(("with examples", f"{float(result.ceiling.mean()):.3g}"))
        rows.append(("without a vector", f"{float(result.floor.mean()):.3g}"))
        best = result.scores.mean(dim=-1).amax(dim=1).tolist()
        where = "strength" if isinstance(result, StrengthScores) else "layer"
        for arm, score in zip(result.arms, best, strict=True):
            rows.append((f"{arm}, at its best {where}", f"{score:.3g}"))
    if peak is not None:
        rows.append(("over layers", peak.label))
    return rows


def _score(row: Mapping[Hashable, Any]) -> str:
    """A score with its interval, as a table's row holds them."""
    return f"{row['score']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
