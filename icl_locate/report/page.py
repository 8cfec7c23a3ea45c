"""What every page has: a frame with its recipe, tables, and figures as pictures."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from icl_locate.records.files import replace_file

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; font-size: 15px }
th, td { border-bottom: 1px solid #ddd; padding: .35rem .6rem; text-align: right }
th:first-child, td:first-child { text-align: left }
td + td { white-space: nowrap }
pre { background: #f6f6f6; padding: 1rem; overflow: auto; font-size: 13px }
"""


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


def align_table(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right.

    A header may have several lines.
    """
    parts = [header.split("\n") for header in headers]
    height = max(map(len, parts))
    above = list(zip(*[[""] * (height - len(part)) + part for part in parts], strict=True))
    rows = [*above, *body]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headers))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines[:height], "  ".join("-" * width for width in widths), *lines[height:]])


def html_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def write_png(figure: go.Figure, path: Path, *, width: int = 1000, height: int = 600) -> str | None:
    """Write a figure as PNG; returns ``None``, or why it could not be written.

    kaleido draws it with a Chrome or Chromium that must be on the machine.
    """
    import kaleido.errors

    from icl_locate.models.loading import first_line

    try:
        image = figure.to_image("png", width=width, height=height, scale=2)
    except (RuntimeError, OSError, ValueError, kaleido.errors.KaleidoError) as error:
        return first_line(error)
    replace_file(path, [image])
    return None
