"""Differences of recognition layers and of curves: a row for each two that were compared."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.comparison import Difference
from icl_locate.plots.frame import PALETTE, add_caption, band, count_axis, metric_title, plain

_ROW, _HEADING, _AROUND = 150, 60, 240
_LAYERS = "earlier ← layers → later"
_HIDDEN = "layer from which the context is hidden (last: never)"
_COLOURS = {"later": PALETTE[1], "earlier": PALETTE[0]}
_GREY = "#777777"
_ZERO = {"zeroline": True, "zerolinewidth": 1, "zerolinecolor": "#888888"}
_MARKERS = {"symbol": "circle", "size": 7}, {"symbol": "circle-open", "size": 13}


@checked(ResultError)
def layer_differences(differences: Sequence[Difference], *, title: str | None = None) -> go.Figure:
    """Left, how many layers later or earlier; right, the difference of the curves; with intervals.

    What the interval of layers does not tell from 0 is grey. A dot shows where the first is
    recognised, a ring where the second is.

    Args:
        differences: what `compare` found.
        title: the figure's title; ``None`` names tasks and models.

    Raises:
        ResultError: if there is no difference to show.
    """
    if not differences:
        refuse("differences", differences, "what compare found, at least one", ResultError)
    n = len(differences)
    figure = make_subplots(
        rows=n,
        cols=2,
        shared_xaxes="columns",
        column_widths=[0.4, 0.6],
        horizontal_spacing=0.09,
        vertical_spacing=_HEADING / (_ROW * n),
    )
    for row, found in enumerate(differences, start=1):
        _draw_layers(figure, row, found)
        _draw_scores(figure, row, found)
        _add_heading(figure, row, found)
    far = max([1, *(abs(end) for found in differences for end in found.interval or ())])
    most = max(max(found.n_layers) for found in differences)
    for col, says, steps in (1, _LAYERS, 2 * far), (2, _HIDDEN, most):
        figure.update_xaxes(col=col, zeroline=False)
        figure.update_xaxes(col=col, row=n, **count_axis(says, steps))
    figure.update_xaxes(col=1, range=[-far - 0.5, far + 0.5], **_ZERO)
    figure.update_xaxes(col=2, range=[-0.3, most + 0.3])
    metric = metric_title(differences[0].metric).split(" (")[0]
    label = {"text": "<br>".join(textwrap.wrap(f"{metric}: difference", 18)), "font": {"size": 11}}
    figure.update_yaxes(col=1, visible=False, range=[-1, 1])
    figure.update_yaxes(col=2, title=label, nticks=5, range=_heights(differences), **_ZERO)
    if all(found.scores is None for found in differences):
        figure.update_yaxes(col=2, visible=False)
    figure.update_layout(
        template="plotly_white",
        title=title or _title(differences[0]),
        showlegend=False,
        height=_AROUND + _ROW * n,
        margin={"t": 110},
    )
    add_caption(figure, _caption(differences))
    return figure


def _heights(differences: Sequence[Difference]) -> list[float]:
    """One range for all rows, so that differences of one size look so."""
    bands = [found.score_interval for found in differences if found.score_interval is not None]
    low = min([0.0, *(float(band.min()) for band in bands)])
    high = max([0.0, *(float(band.max()) for band in bands)])
    around = 0.1 * (high - low) or 1.0
    return [low - around, high + around]


def _add_heading(figure: go.Figure, row: int, found: Difference) -> None:
    """Who is compared and what came of it, above the row, over both of its panels."""
    names = " against ".join(found.names)
    said = str(found).removeprefix(f"{names}: ")
    figure.add_annotation(
        text=f"<b>{plain(names)}</b><br>{plain(said)}",
        xref="paper",
        x=0,
        yref="y domain" if row == 1 else f"y{2 * row - 1} domain",
        y=1,
        yshift=4,
        yanchor="bottom",
        xanchor="left",
        align="left",
        showarrow=False,
        font={"size": 12},
    )


def _draw_layers(figure: go.Figure, row: int, found: Difference) -> None:
    """A point with its interval."""
    place: dict[str, Any] = {"row": row, "col": 1}
    if found.layer is not None and found.interval is not None:
        colour = _COLOURS.get(found.verdict, _GREY)
        low, high = found.interval
        figure.add_scatter(
            x=[found.layer],
            y=[0],
            mode="markers",
            marker={"size": 12, "color": colour},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - found.layer],
                "arrayminus": [found.layer - low],
                "color": colour,
                "thickness": 2,
            },
            hovertemplate=f"{plain(found)}<extra></extra>",
            **place,
        )
    else:
        figure.add_trace(_words(found.verdict, 0), **place)


def _draw_scores(figure: go.Figure, row: int, found: Difference) -> None:
    """A curve with its band, and the layers at which the two are recognised."""
    place: dict[str, Any] = {"row": row, "col": 2}
    if found.scores is not None and found.score_interval is not None:
        colour = _COLOURS.get(found.verdict, _GREY)
        layers, (low, high) = list(found.locations[0].layers), found.score_interval.tolist()
        figure.add_trace(band(layers, low, high, colour, str(row)), **place)
        figure.add_scatter(
            x=layers,
            y=found.scores.tolist(),
            customdata=list(zip(low, high, strict=True)),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 4},
            hovertemplate=(
                f"<b>{plain(' minus '.join(found.names))}</b>, layer %{{x}}<br>"
                "%{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra></extra>"
            ),
            **place,
        )
    else:
        figure.add_trace(_words("other start layers: no curve", max(found.n_layers) / 2), **place)
    for name, location, marker in zip(found.names, found.locations, _MARKERS, strict=True):
        if location.layer is not None:
            figure.add_scatter(
                x=[location.layer],
                y=[0],
                mode="markers",
                marker={"color": "black", **marker},
                cliponaxis=False,
                hovertemplate=f"<b>{plain(name)}</b><br>{plain(location)}<extra></extra>",
                **place,
            )


def _words(text: str, layer: int | float) -> go.Scatter:
    """What a panel says that has nothing to show: a trace, as panels without one are not drawn."""
    return go.Scatter(
        x=[layer],
        y=[0],
        text=[f"{text}<br><br>"],  # above the dots
        mode="text",
        textposition="top center",
        textfont={"size": 11, "color": _GREY},
        hoverinfo="skip",
    )


def _title(found: Difference) -> str:
    """Tasks and models, each named once."""
    return ", ".join(_both(found, key) for key in ("task", "model"))


def _both(found: Difference, key: str) -> str:
    return " and ".join(dict.fromkeys(plain(recipe.get(key)) for recipe in found.recipes))


def _caption(differences: Sequence[Difference]) -> str:
    """The recipe in lines: what a reader needs to judge the numbers."""
    found = differences[0]
    sides = zip(found.recipes, found.locations, strict=True)
    recipes = dict.fromkeys(_recipe(recipe, location.n_items) for recipe, location in sides)
    shared = "nothing" if found.paired == "nothing" else f"the same {found.paired}"
    lacking = any(each.scores is None for each in differences)
    return (
        f"{' against '.join(recipes)}; {found.recipes[0].get('signature')}<br>"
        f"first minus second, with {100 * found.confidence:g} % intervals; shared: {shared}; "
        f"layers by {found.locations[0].n_resamples} draws of both curves, scores by Student's t"
        "<br>right: where the first (dot) and the second (ring) is recognised"
        + "; no curve where start layers differ"
        * lacking
    )


def _recipe(recipe: Mapping[str, Any], n_items: int) -> str:
    seeds = ", ".join(map(str, recipe.get("seeds", ())))
    return f"{recipe.get('n_shots')} shots, {n_items} queries, seeds {seeds}"
