"""Differences of recognition layers as one self-contained HTML page."""

import html
from collections.abc import Sequence
from pathlib import Path

from icl_locate import plots
from icl_locate.masking.comparison import Difference
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.tables import html_table

_HEADERS = ("first", "second", "first is recognised", "layers", "of the depth", "effect", "shared")


def write_differences(path: str | Path, differences: Sequence[Difference]) -> Path:
    """Write one HTML page that needs nothing else: figure, table, recipes.

    Args:
        differences: what `compare` found, at least one.
    """
    found = differences[0]
    figure = plots.layer_differences(differences)
    title = str(figure.layout.title.text)
    recipes = dict(zip(("first", "second"), map(dict, found.recipes), strict=True))
    said = [f"{each}." for each in differences]
    sections = [Section("Differences", html_differences(differences))]
    return write_page(path, html.unescape(title), sections, recipes, finding=said)


def html_differences(differences: Sequence[Difference]) -> str:
    """Figure and table of differences, and what they are.

    Args:
        differences: at least one.
    """
    found = differences[0]
    figure = html_figure(
        plots.layer_differences(differences),
        "Left, how many layers later or earlier the first is recognised; right, the difference of "
        "the curves; with intervals. The table below has the numbers.",
        table="",
    )
    return f"""<p>Is the task recognised at a later layer? Differences are the first minus the
second, with intervals of {100 * found.confidence:g} %. From the recognition layer on, at least
{100 * found.locations[0].threshold:g} % of what the context is worth are recovered for good.</p>
{figure}
{html_table(_HEADERS, difference_rows(differences))}"""


def difference_rows(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    """The table of differences as text, one row each, without the header."""
    return [
        (
            *found.names,
            found.verdict,
            _interval(found.layer, found.interval),
            _interval(found.depth, found.depth_interval),
            _interval(found.effect[0], found.effect[1:]),
            found.paired,
        )
        for found in differences
    ]


def _interval(
    value: int | float | None, interval: tuple[int, int] | tuple[float, float] | None
) -> str:
    if value is None or interval is None:
        return ""
    return f"{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]"
