"""Any other result as one self-contained HTML page: its figure, its table, its recipe."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from icl_locate import plots
from icl_locate.checks.signatures import checked
from icl_locate.circuit import (
    ArmCurve,
    ForerunnerSimilarity,
    PerplexityAlignment,
    QueryKeyView,
)
from icl_locate.context_heads import HeadSetCurve, HeadSweepResult
from icl_locate.errors import ResultError
from icl_locate.induction import AblationResult, HeadEffects, HeadReference, HeadScores
from icl_locate.records.saved import Saved
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.tables import html_table
from icl_locate.vectors import (
    FunctionVector,
    HeadIndirectEffects,
    InContextVectors,
    LayerCurve,
    Override,
    Patched,
)

FIGURES: Mapping[type[Saved], Callable[[Any], go.Figure] | None] = {
    HeadSweepResult: plots.head_map,
    HeadIndirectEffects: plots.head_map,
    HeadScores: plots.head_map,
    HeadSetCurve: plots.head_set_curves,
    AblationResult: plots.ablation_bars,
    HeadEffects: None,
    HeadReference: None,
    FunctionVector: None,
    InContextVectors: None,
    LayerCurve: plots.transfer_curves,
    Patched: plots.transfer_curves,
    Override: plots.overrides,
    QueryKeyView: plots.query_key_plane,
    ArmCurve: None,
    ForerunnerSimilarity: None,
    PerplexityAlignment: None,
}
"""The kinds of results that have no page of their own, and what draws them, if anything does."""
_MOST = 500
"""Rows of a table."""


@checked(ResultError)
def write_result_report(path: str | Path, result: Saved) -> Path:
    """Write the page of a result that no other page is for."""
    draw = FIGURES.get(type(result))
    name = type(result).__name__
    figure = "" if draw is None else html_figure(draw(result), f"What this {name} measured.")
    headers, rows = _table(result)
    shown = f", of which the first {_MOST} are shown" if len(rows) > _MOST else ""
    table = html_table(headers, rows[:_MOST]) if rows else ""
    recorded: Mapping[str, Any] = getattr(result, "provenance", {})
    said = [
        f"A result of the kind {name}: {recorded.get('task')} in {recorded.get('model')}.",
        f"Its table has {len(rows)} rows{shown}.",
    ]
    sections = [Section("Figure", figure), Section("Table", table)]
    return write_page(path, f"{name}: {recorded.get('task')}", sections, recorded, finding=said)


def _table(result: Any) -> tuple[list[str], list[tuple[str, ...]]]:
    """What `to_dataframe` gives, as text; nothing of a result that has none."""
    if not hasattr(result, "to_dataframe"):
        return [], []
    frame = result.to_dataframe()
    rows = [tuple(map(_said, row)) for row in frame.itertuples(index=False)]
    return [str(name).replace("_", " ") for name in frame.columns], rows


def _said(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
