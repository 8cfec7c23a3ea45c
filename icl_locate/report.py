"""A result as one self-contained HTML page, and as text."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from icl_locate import plots
from icl_locate.errors import ResultError
from icl_locate.files import replace_file
from icl_locate.importance import LayerImportance
from icl_locate.location import Location, locate
from icl_locate.plots.frame import to_html
from icl_locate.results import SweepResult
from icl_locate.signatures import checked

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid #ddd; padding: .35rem .6rem; text-align: right }
th:first-child, td:first-child { text-align: left }
pre { background: #f6f6f6; padding: 1rem; overflow: auto; font-size: 13px }
"""

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


def write_page(path: str | Path, title: str, body: str, provenance: Mapping[str, Any]) -> Path:
    """Write a self-contained HTML page, with the recipe of its numbers at its end."""
    recipe = json.dumps(dict(provenance), indent=1, ensure_ascii=False)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{body}
<h2>Recipe</h2><pre>{html.escape(recipe)}</pre>
</body></html>
"""
    return replace_file(path, [page.encode(errors="backslashreplace")])


def location_rows(locations: Sequence[Location]) -> list[tuple[str, ...]]:
    """The table of locations as text, one row a condition, without the header."""
    return [
        (
            location.condition,
            "no effect" if location.layer is None else str(location.layer),
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


def align_table(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    rows = [headers, *body]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headers))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def importance_table(importances: Sequence[LayerImportance]) -> str:
    """The layers whose masking alone costs beyond doubt, for a terminal."""
    lines = [f"masked alone, a layer costs beyond doubt ({importances[0].confidence:.0%}):"]
    for found in importances:
        losses = [f"{layer} ({float(found.loss[layer]):.3g})" for layer in found.critical] or [
            "none"
        ]
        lines.append(f"{found.condition} (ceiling {found.ceiling:.3g}): {', '.join(losses)}")
    return "\n".join(lines)


def write_png(figure: go.Figure, path: Path, *, width: int = 1000, height: int = 600) -> str | None:
    """Write a figure as PNG; returns ``None``, or why it could not be written.

    kaleido draws it with a Chrome or Chromium that must be on the machine.
    """
    import kaleido.errors

    from icl_locate.models import first_line

    try:
        image = figure.to_image("png", width=width, height=height, scale=2)
    except (RuntimeError, OSError, ValueError, kaleido.errors.KaleidoError) as error:
        return first_line(error)
    replace_file(path, [image])
    return None


def html_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_answers(result: SweepResult) -> str:
    """The first query's answer at each start layer, for the first condition and seed."""
    answers = [by_seed[0][0] for by_seed in result.texts[0]]
    if not any(answers):
        return ""
    lines = [f"query   {result.sources[0]}", f"wanted  {result.targets[0]}", ""]
    lines += [f"{layer:>6}  {answer}" for layer, answer in zip(result.layers, answers, strict=True)]
    heading = f"One answer over the layers ({result.conditions[0]} hidden)"
    return f"<h2>{html.escape(heading)}</h2><pre>{html.escape(chr(10).join(lines))}</pre>"
