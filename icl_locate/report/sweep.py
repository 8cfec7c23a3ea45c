"""A sweep as one self-contained HTML page, and as text."""

import html
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from icl_locate import plots
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.importance import LayerImportance
from icl_locate.masking.location import Location, locate
from icl_locate.masking.result import SweepResult
from icl_locate.plots.frame import to_html
from icl_locate.report.page import align_table, html_table, write_page

_HEADERS = ("hidden", "recognised by layer", "interval", "floor", "ceiling", "largest jump at")


@checked(ResultError)
def write_report(
    result: SweepResult,
    path: str | Path,
    locations: Sequence[Location] | None = None,
    figures: Sequence[go.Figure] = (),
) -> Path:
    """Write one HTML page that needs nothing else: figure, table, some answers, recipe.

    Args:
        locations: what `locate` found; with none given it is computed.
        figures: more figures to show below the curves.
    """
    locations = locations or locate(result)
    shown = [plots.layer_curves(result, locations), *figures]
    parts = [to_html(figure, with_script=i == 0) for i, figure in enumerate(shown)]
    title = f"{result.provenance.get('task')} in {result.provenance.get('model')}"
    body = f"""<p>Score when the context is hidden from a layer on. From the recognition layer on,
the model no longer needs the context: at least {100 * locations[0].threshold:g} % of what the
context is worth are recovered for good.</p>
{parts[0]}
{html_table(_HEADERS, location_rows(locations))}
{"".join(parts[1:])}
{_html_answers(result)}"""
    return write_page(path, title, body, result.provenance)


def location_rows(locations: Sequence[Location]) -> list[tuple[str, ...]]:
    """The table of locations as text, one row a condition, without the header."""
    return [
        (
            location.condition,
            location.label,
            "" if location.interval is None else f"{location.interval[0]}-{location.interval[1]}",
            f"{location.floor:.3g}",
            f"{location.ceiling:.3g}",
            "" if location.jump_layer is None else f"{location.jump_layer} (+{location.jump:.3g})",
        )
        for location in locations
    ]


def text_table(locations: Sequence[Location]) -> str:
    """The table of locations for a terminal."""
    return align_table(_HEADERS, location_rows(locations))


def importance_table(importances: Sequence[LayerImportance]) -> str:
    """The layers whose masking alone costs beyond doubt, for a terminal."""
    lines = [f"masked alone, a layer costs beyond doubt ({importances[0].confidence:.0%}):"]
    for found in importances:
        lost = dict(zip(found.layers, found.loss.tolist(), strict=True))
        losses = [f"{layer} ({lost[layer]:.3g})" for layer in found.critical] or ["none"]
        lines.append(f"{found.condition} (ceiling {found.ceiling:.3g}): {', '.join(losses)}")
    return "\n".join(lines)


def _html_answers(result: SweepResult) -> str:
    """The first query's answer at each start layer, for the first condition and seed."""
    answers = [by_seed[0][0] for by_seed in result.texts[0]] if result.texts else []
    if not any(answers):
        return ""
    lines = [f"query   {result.sources[0]}", f"wanted  {result.targets[0]}", ""]
    lines += [f"{layer:>6}  {answer}" for layer, answer in zip(result.layers, answers, strict=True)]
    heading = f"One answer over the layers ({result.conditions[0]} hidden)"
    return f"<h2>{html.escape(heading)}</h2><pre>{html.escape(chr(10).join(lines))}</pre>"
