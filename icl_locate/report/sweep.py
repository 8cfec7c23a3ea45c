"""A sweep as one self-contained HTML page, and as text."""

import html
import textwrap
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

_HEADERS = (
    "hidden", "verdict", "layer", "interval", "any\nshape", "effect [low, high]", "floor",
    "ceiling", "largest\njump at",
)  # fmt: skip
_WIDTH = 120
"""Columns of a terminal."""
_MEANING = {
    "recognised": "from the layer on, the context is no longer needed",
    "never recovered": "the context is needed to the end",
    "no effect": "hiding the context changes nothing beyond noise",
    "context harms": "the score is higher without the context",
    "not resolved": "the layer has no interval, or one that spans over half of the layers",
}


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
    share = 100 * locations[0].threshold
    body = f"""<p>Score when the context is hidden from a layer on. From the recognition layer on,
the model no longer needs the context: at least {share:g} % of what the context is worth are
recovered for good.</p>
{parts[0]}
{html_table(_HEADERS, location_rows(locations))}
{_html_notes(locations)}
{_html_uncalibrated(result, locations[0])}
{"".join(parts[1:])}
{_html_answers(result)}"""
    return write_page(path, title, body, result.provenance)


def uncalibrated_table(result: SweepResult, like: Location) -> str:
    """The table of locations without calibration, for a terminal; of other metrics empty.

    Args:
        like: found with the options that act here, too.
    """
    if not result.is_calibrated:
        return ""
    rows = location_rows(_uncalibrated(result, like))
    return f"\nwithout calibration:\n{align_table(_HEADERS, rows)}"


def _html_uncalibrated(result: SweepResult, like: Location) -> str:
    if not result.is_calibrated:
        return ""
    found = _uncalibrated(result, like)
    return f"""<h2>Without calibration</h2>
<p>The same run by the label of the highest probability as it is, not in relation to its
probability behind content-free inputs: what it shares with this table is no label bias.</p>
{html_table(_HEADERS, location_rows(found))}
{_html_notes(found)}"""


def _uncalibrated(result: SweepResult, like: Location) -> list[Location]:
    return locate(result.uncalibrated(), threshold=like.threshold, confidence=like.confidence)


def location_rows(locations: Sequence[Location]) -> list[tuple[str, ...]]:
    """The table of locations as text, one row a condition, without the header."""
    return [
        (
            location.condition,
            location.verdict,
            location.place,
            "" if location.interval is None else f"{location.interval[0]}-{location.interval[1]}",
            "" if location.upper_any is None else str(location.upper_any),
            location.worth,
            f"{location.floor:.3g}",
            f"{location.ceiling:.3g}",
            _jump(location),
        )
        for location in locations
    ]


def _jump(location: Location) -> str:
    if location.jump_layer is None:
        return ""
    return f"{location.jump_layer} (+{location.jump:.{location.digits}f})"


def note_lines(locations: Sequence[Location]) -> list[str]:
    """What must be known beside the table, a line for each condition of which there is any."""
    return [
        f"{location.condition}: {'; '.join(location.notes)}"
        for location in locations
        if location.notes
    ]


def text_table(locations: Sequence[Location]) -> str:
    """The table of locations for a terminal, with notes below it."""
    lines = [*note_lines(locations), _columns(locations)]
    notes = [textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in lines]
    return "\n".join([align_table(_HEADERS, location_rows(locations)), "", *notes])


def _columns(locations: Sequence[Location]) -> str:
    """What the columns mean that do not say so."""
    share = f"{100 * locations[0].confidence:g} %"
    return (
        f"interval ({share}): for a rise to a plateau, falls beyond noise aside; any shape: its "
        "upper end if the curve may be any; effect: ceiling minus floor"
    )


def importance_table(importances: Sequence[LayerImportance]) -> str:
    """The layers whose masking alone costs beyond doubt, for a terminal."""
    lines = [f"masked alone, a layer costs beyond doubt ({importances[0].confidence:.0%}):"]
    for found in importances:
        lost = dict(zip(found.layers, found.loss.tolist(), strict=True))
        losses = [f"{layer} ({lost[layer]:.3g})" for layer in found.critical] or ["none"]
        lines.append(f"{found.condition} (ceiling {found.ceiling:.3g}): {', '.join(losses)}")
    return "\n".join(lines)


def _html_notes(locations: Sequence[Location]) -> str:
    """The notes, and in words the verdicts that are there and the columns."""
    found = {location.verdict for location in locations}
    said = [f"{name}: {text}" for name, text in _MEANING.items() if name in found]
    items = [f"<li>{html.escape(line)}</li>" for line in note_lines(locations)]
    notes = f"<ul>{''.join(items)}</ul>" if items else ""
    return f"{notes}<p><small>{'; '.join([*said, _columns(locations)])}.</small></p>"


def _html_answers(result: SweepResult) -> str:
    """The first query's answer at each start layer, for the first condition and seed."""
    answers = [by_seed[0][0] for by_seed in result.texts[0]] if result.texts else []
    if not any(answers):
        return ""
    lines = [f"query   {result.sources[0]}", f"wanted  {result.targets[0]}", ""]
    lines += [f"{layer:>6}  {answer}" for layer, answer in zip(result.layers, answers, strict=True)]
    heading = f"One answer over the layers ({result.conditions[0]} hidden)"
    return f"<h2>{html.escape(heading)}</h2><pre>{html.escape(chr(10).join(lines))}</pre>"
