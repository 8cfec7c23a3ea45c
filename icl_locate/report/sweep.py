"""A sweep as one self-contained HTML page, and as text."""

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from icl_locate import plots
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.importance import LayerImportance, layer_importance
from icl_locate.masking.location import Location, locate
from icl_locate.masking.result import SweepResult
from icl_locate.report.beside import html_failures, html_savings
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.prompt import html_prompt
from icl_locate.report.tables import align_table, html_list, html_table, paragraphs
from icl_locate.report.texts import html_answers
from icl_locate.report.words import (
    COLUMNS,
    condition_rows,
    described,
    tell,
    tell_axis,
    tell_importance,
    tell_metric,
)

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
    """Write one HTML page that needs nothing else, and opens from disk.

    The finding in plain words; what was run; curves and layers with their intervals; how answers
    fail; what would be saved; every answer, to be filtered and read over the layers; the recipe.

    Args:
        locations: what `locate` found; with none given it is computed.
        figures: more figures to show below the curves.
    """
    locations = locations or locate(result)
    known = described(result)
    curves = html_figure(
        plots.layer_curves(result, locations),
        "Curves of the score over the layer from which the context is hidden, one for each "
        "condition, with bands for intervals and diamonds at the recognition layers. The table "
        "below has the layers.",
    )
    sections = [
        _what_was_run(result),
        Section("How to read it", paragraphs([tell_axis(result), tell_metric(result)])),
        Section("Curves", curves),
        Section("Layers", _html_locations(locations)),
        Section("Without calibration", _html_uncalibrated(result, locations[0])),
        *_more(figures),
        Section("How answers fail", html_failures(result), "failures"),
        Section("What could be saved", html_savings(result, locations), "savings"),
        Section("Every answer", html_answers(result), "answers"),
    ]
    said = [tell(location, known.get(location.condition)) for location in locations]
    return write_page(path, _title(result), sections, result.provenance, finding=said)


@checked(ResultError)
def write_importance_report(
    result: SweepResult,
    path: str | Path,
    importances: Sequence[LayerImportance] | None = None,
    *,
    confidence: float = 0.95,
) -> Path:
    """Write the page of a sweep that masked layers alone (scope "only", or a window).

    Args:
        importances: what `layer_importance` found; with none given it is computed.
        confidence: of its intervals, where it is computed.

    Raises:
        ResultError: if the sweep masked from a layer on.
    """
    found = importances or layer_importance(result, confidence=confidence)
    how = (
        "At layer l of a curve the context is hidden at that layer alone (or, in a window, at some "
        "from it on), and read at all others. What is lost of the ceiling, the score with nothing "
        "hidden, is what this layer's reading of the context is worth. At 0 nothing is lost."
    )
    figure = html_figure(
        plots.importance_curves(result, found),
        "Curves of the score that is lost when one layer alone is masked, over layers, one for "
        "each condition, with bands for intervals.",
    )
    sections = [
        _what_was_run(result),
        Section("How to read it", paragraphs([how, tell_metric(result)])),
        Section("Curves", figure),
        Section("How answers fail", html_failures(result), "failures"),
        Section("Every answer", html_answers(result), "answers"),
    ]
    said = [tell_importance(one) for one in found]
    return write_page(path, _title(result), sections, result.provenance, finding=said)


def _title(result: SweepResult) -> str:
    recorded = result.provenance
    return f"Where a task is recognised: {recorded.get('task')} in {recorded.get('model')}"


def _what_was_run(result: SweepResult) -> Section:
    """Model, task, prompt and conditions."""
    recorded = result.provenance
    facts = {
        "Model": f"{recorded.get('model')}, {result.n_layers} layers",
        "Task": f"{recorded.get('task')}, {len(result.sources):,} queries",
        "Prompt": f"{recorded.get('n_shots')} examples, drawn anew by each of "
        f"{len(result.seeds)} seeds ({', '.join(map(str, result.seeds))})",
        "Metric": f"{result.metric.replace('_', ' ')} ({recorded.get('signature')})",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{html.escape(says)}</dd>" for name, says in facts.items())
    table = html_table(
        ("condition", "the prompt holds", "hidden from the layer on"),
        condition_rows(result),
        caption="What each condition hides from the model's attention",
        words=True,
    )
    return Section("What was run", f"<dl>{listed}</dl>{table}{html_prompt(result)}")


def _more(figures: Sequence[go.Figure]) -> list[Section]:
    """Figures that a command adds: they say in their titles what they show."""
    drawn = "".join(
        html_figure(figure, str(figure.layout.title.text or "a figure"), table="", kind="segments")
        for figure in figures
    )
    return [Section("A prompt", drawn)]


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
    return f"""<p>The same run by the label of the highest probability as it is, not in relation to
its probability behind content-free inputs: what it shares with the table above is no label
bias.</p>
{_html_locations(found)}"""


def _uncalibrated(result: SweepResult, like: Location) -> list[Location]:
    return locate(result.uncalibrated(), threshold=like.threshold, confidence=like.confidence)


def _html_locations(locations: Sequence[Location]) -> str:
    """The table, what must be known beside it, and what its columns and verdicts mean."""
    headers = [header.replace("\n", " ") for header in _HEADERS]
    share = 100 * locations[0].threshold
    table = html_table(
        headers,
        location_rows(locations),
        caption=f"From the layer on, at least {share:g} % of what the context is worth are "
        "recovered for good",
    )
    verdicts = {found.verdict for found in locations}
    said = [f"{name}: {text}" for name, text in _MEANING.items() if name in verdicts]
    columns = [f"{name}: {COLUMNS[name.split(' [')[0]]}" for name in headers]
    return (
        f"{table}{html_list(note_lines(locations))}<details><summary>What the columns mean"
        f"</summary>{html_list([*columns, *said, _columns(locations)])}</details>"
    )


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
