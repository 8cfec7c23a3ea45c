"""Figures in a page: drawn when they are near, named for those who do not see them, as tables."""

import html
import json
import re
from numbers import Real
from typing import Any

import plotly.graph_objects as go

from icl_locate.plots.frame import CAPTION, CONFIG
from icl_locate.report.tables import html_table

FIGURE = '<figure class="plot'
"""How each of them begins."""
_TOP, _MOST_ROWS = 40, 60
_TAGS = re.compile("</?(?:b|i|sup|sub)>")


def html_figure(figure: go.Figure, says: str, *, table: str | None = None, kind: str = "") -> str:
    """A figure with its title and caption as text, which a narrow page can wrap.

    Args:
        says: what it shows, in a sentence, for those who do not see it.
        table: HTML of its numbers; ``None`` makes one of its curves, bars and maps.
        kind: a class of the style sheet.
    """
    plain = json.loads(figure.to_json())
    layout = plain["layout"]
    title = layout.pop("title", {}).get("text", "")
    caption = _take_caption(layout)
    _make_room(layout, title)
    drawn = {"data": plain["data"], "layout": layout, "config": CONFIG}
    block = json.dumps(drawn).replace("<", "\\u003c")
    wide = "wide " if _is_wide(layout) else ""
    numbers = html_numbers(figure) if table is None else table
    lines = "<br>".join(map(html.escape, caption.split("<br>")))
    below = f"<details><summary>The same as a table</summary>{numbers}</details>" if numbers else ""
    return f"""{FIGURE} {wide}{kind}">
<p class="title">{html.escape(" ".join(_lines(title)))}</p>
<div class="canvas" role="img" aria-label="{html.escape(says, quote=True)}"
style="height:{layout["height"]}px"></div>
<script type="application/json">{block}</script>
{below}<figcaption>{lines}</figcaption></figure>"""


def _take_caption(layout: dict[str, Any]) -> str:
    """The caption, which is taken out of the figure."""
    notes = layout.get("annotations", [])
    found = [note for note in notes if note.get("name") == CAPTION]
    layout["annotations"] = [note for note in notes if note.get("name") != CAPTION]
    if not found:
        return ""
    layout.setdefault("margin", {})["b"] = -found[0]["yshift"]
    return str(layout["meta"][CAPTION])


def _make_room(layout: dict[str, Any], title: str) -> None:
    """What title and caption took is the page's."""
    margin = layout.setdefault("margin", {})
    top = margin.get("t", 100)
    margin["t"] = max(_TOP, top - 60) if title else top
    layout["height"] = layout.get("height", 560) - (top - margin["t"])
    margin.setdefault("l", 70)


def _is_wide(layout: dict[str, Any]) -> bool:
    """Whether a figure has more beside its curves than a phone's width can show."""
    axes = [key for key in layout if re.fullmatch(r"xaxis\d+", key)]
    return bool(axes or layout["annotations"])


def _lines(text: str) -> list[str]:
    """A text of plotly's as plain lines."""
    parts = re.split("<br>", text)
    return [html.unescape(_TAGS.sub(" ", part)).strip() for part in parts if part]


def html_numbers(figure: go.Figure) -> str:
    """What a figure's curves, bars and maps show, as tables; nothing of what has no name."""
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    parts = [html_table(*_map(trace)) for trace in maps]
    parts += [html_table(*_curves(traces)) for traces in _by_places(figure)]
    return "".join(parts)


def _by_places(figure: go.Figure) -> list[list[Any]]:
    """Curves and bars that have a name; those over the same places of the same axes together."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for trace in figure.data:
        named = trace.name and trace.hoverinfo != "skip"
        if named and trace.type in ("scatter", "bar") and trace.y is not None:
            key = trace.xaxis, trace.yaxis, tuple(map(str, trace.x))
            found.setdefault(key, []).append(trace)
    return list(found.values())


def _curves(traces: list[Any]) -> tuple[list[str], list[tuple[str, ...]]]:
    """A row a place; of very many some."""
    places = list(traces[0].x)
    some = range(0, len(places), -(-len(places) // _MOST_ROWS))
    rows = [(_said(places[i]), *(_said(trace.y[i]) for trace in traces)) for i in some]
    return ["", *(_said(trace.name) for trace in traces)], rows


def _map(trace: Any) -> tuple[list[str], list[tuple[str, ...]]]:
    across = range(len(trace.z[0])) if trace.x is None else trace.x
    down = range(len(trace.z)) if trace.y is None else trace.y
    rows = [(_said(name), *map(_said, row)) for name, row in zip(down, trace.z, strict=True)]
    return ["", *map(_said, across)], rows


def _said(value: Any) -> str:
    """A number or a name of a figure as plain text."""
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, Real) else " ".join(_lines(str(value)))
