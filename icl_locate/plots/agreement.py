"""Several methods on one layer axis: a row each, with what it measured and the layer it tells."""

import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray
from plotly.subplots import make_subplots

from icl_locate.agreement import Agreement, MethodCurve, Witness
from icl_locate.agreement.summary import together
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.plots.frame import (
    PALETTE,
    about,
    add_caption,
    band,
    count_axis,
    metric_title,
    plain,
)
from icl_locate.studies.intervals import Spread

_ROW, _HEADING, _AROUND = 104, 54, 190
_GREY, _SHOWN = "#8a8a8a", (-0.3, 1.3)
_COLOURS = dict(zip(("plateau", "peak", "drop", "rise"), PALETTE, strict=False))
_AXIS = "layer L: the residual stream that enters it"
_HEIGHTS = {"plateau": "score kept", "peak": "gain", "drop": "gain", "rise": "above chance"}


@checked(ResultError)
def agreement(agreed: Agreement, *, title: str | None = None) -> go.Figure:
    """One row a method over one axis of layers: its curve from 0 to 1, and the layer that it tells.

    A line or bars show what the method measured, as a share of its largest effect; a bar reaches
    from the stream that enters its layer to that behind it. A diamond is the layer, the shade its
    interval; grey is a method that tells none, or none that is resolved.

    Args:
        agreed: what `triangulate` found.
        title: the figure's title; ``None`` names task and model.

    Raises:
        ResultError: if the metric is not known here.
    """
    n = len(agreed.witnesses)
    figure = make_subplots(
        rows=n, cols=1, shared_xaxes=True, vertical_spacing=_HEADING / ((_ROW + _HEADING) * n)
    )
    for row, (one, curve) in enumerate(zip(agreed.witnesses, agreed.curves, strict=True), start=1):
        _draw(figure, row, one, curve, agreed.confidence)
        _add_heading(figure, row, one)
    figure.update_xaxes(
        range=[-0.3, agreed.n_layers + 0.3], showgrid=True, tickfont={"size": 10},
        **count_axis("", agreed.n_layers),
    )  # fmt: skip
    figure.update_xaxes(title=_axis(agreed.n_layers), row=n, col=1)
    figure.update_yaxes(
        tickvals=[0, 1], zeroline=True, zerolinewidth=1,
        zerolinecolor="#bbbbbb", title_font={"size": 11},
    )  # fmt: skip
    recorded = agreed.provenance
    figure.update_layout(
        template="plotly_white",
        title=title or f"{about(recorded)}: do the methods agree?",
        showlegend=False,
        height=_AROUND + (_ROW + _HEADING) * n,
        margin={"t": 120},
        bargap=0.12,
    )
    add_caption(figure, _caption(agreed))
    return figure


def _axis(n_layers: int) -> str:
    return f"{_AXIS} (0: the embedding, {n_layers}: what leaves the last layer)"


def _draw(figure: go.Figure, row: int, one: Witness, curve: MethodCurve, confidence: float) -> None:
    """A method's curve, its share that counts, and its layer."""
    place: dict[str, Any] = {"row": row, "col": 1}
    resolved = one.interval is not None and one.verdict != "not resolved"
    colour = _COLOURS[one.kind] if resolved else _GREY
    shares, low, high = _shares(curve, confidence)
    if one.kind == "drop":
        figure.add_trace(_bars(one, shares, low, high, colour), **place)
    else:
        if np.isfinite([low, high]).all():
            ends = [end.clip(-_SHOWN[1], _SHOWN[1]).tolist() for end in (low, high)]
            figure.add_trace(band(one.layers, ends[0], ends[1], colour, one.method), **place)
        figure.add_trace(_line(one, shares, colour), **place)
    if one.kind != "peak":
        figure.add_hline(y=curve.share, line={"dash": "dot", "width": 1, "color": _GREY}, **place)
    if one.layer is not None:
        figure.add_trace(_diamond(one, colour, resolved), **place)
    if one.interval is not None:
        figure.add_vrect(
            x0=one.interval[0] - 0.1, x1=one.interval[1] + 0.1, fillcolor=colour, opacity=0.25,
            line_width=0, layer="below", **place,
        )  # fmt: skip
    says = "damage" if one.kind == "drop" and one.lowers else _HEIGHTS[one.kind]
    least = max(min(_SHOWN[0], float(shares.min()) - 0.15), -_SHOWN[1])
    figure.update_yaxes(title=says, range=[least, _SHOWN[1]], **place)


def _shares(
    curve: MethodCurve, confidence: float
) -> tuple[Float[ndarray, "layer"], Float[ndarray, "layer"], Float[ndarray, "layer"]]:
    """What is drawn, with its pointwise interval: the effects as shares of the largest.

    Of a plateau what is left of it.
    """
    effects: Spread = curve.effects
    largest = float(np.abs(effects.mean).max()) or 1.0
    if curve.kind == "plateau" and effects.mean[0] > largest / 2:  # else it is not lowest there
        largest = float(effects.mean[0])
    low, high = effects.interval(confidence)
    found = [values / largest for values in (effects.mean, low, high)]
    if curve.kind == "plateau":
        mean, low, high = (1 - values for values in found)
        return mean, high, low
    return found[0], found[1], found[2]


def _bars(
    one: Witness,
    shares: Float[ndarray, "layer"],
    low: Float[ndarray, "layer"],
    high: Float[ndarray, "layer"],
    colour: str,
) -> go.Bar:
    """A bar a layer, from the stream that enters it to that behind it."""
    return go.Bar(
        x=[layer + 0.5 for layer in one.layers],
        y=shares.tolist(),
        width=0.86,
        marker={"color": colour, "opacity": 0.75},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - shares).tolist(),
            "arrayminus": np.nan_to_num(shares - low).tolist(),
            "thickness": 1,
            "width": 3,
            "color": "#444444",
        },
        customdata=list(zip(one.layers, one.scores.tolist(), strict=True)),
        hovertemplate=(
            f"<b>{plain(one.method)}</b>, {plain(one.places)}: %{{customdata[0]}}<br>"
            "score %{customdata[1]:.3g}, share %{y:.2f}<extra></extra>"
        ),
    )


def _line(one: Witness, shares: Float[ndarray, "layer"], colour: str) -> go.Scatter:
    return go.Scatter(
        x=list(one.layers),
        y=shares.tolist(),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 5},
        customdata=one.scores.tolist(),
        hovertemplate=(
            f"<b>{plain(one.method)}</b>, {plain(one.places)}: %{{x}}<br>"
            "score %{customdata:.3g}, share %{y:.2f}<extra></extra>"
        ),
    )


def _diamond(one: Witness, colour: str, resolved: bool) -> go.Scatter:
    """The layer, on the row's ground."""
    return go.Scatter(
        x=[one.layer],
        y=[0],
        mode="markers",
        marker={
            "symbol": "diamond" if resolved else "diamond-open",
            "size": 15,
            "color": colour,
            "line": {"width": 1.5 if resolved else 2.5, "color": "white" if resolved else colour},
        },
        cliponaxis=False,
        hovertemplate=f"{plain(one)}<extra></extra>",
    )


def _add_heading(figure: go.Figure, row: int, one: Witness) -> None:
    """What the method asks, and what it says, above its row."""
    metric = metric_title(one.metric).replace("_", " ").split(" (")[0]
    said = f"<b>{plain(one.method)}: {plain(one.label)}</b>, effect {one.worth} {metric}"
    figure.add_annotation(
        text=f"{said}<br>{plain(one.question)}",
        xref="paper",
        x=0,
        yref="y domain" if row == 1 else f"y{row} domain",
        y=1,
        yshift=3,
        yanchor="bottom",
        xanchor="left",
        align="left",
        showarrow=False,
        font={"size": 12},
    )


def _caption(agreed: Agreement) -> str:
    """How to read it, what differs, and where the numbers come from."""
    recorded = agreed.provenance
    seeds = ", ".join(map(str, recorded.get("seeds", ())))
    recipe = (
        f"{recorded.get('n_shots')} shots, queries: {recorded.get('n_queries')}, seeds: {seeds}; "
        f"{recorded.get('signature')}"
    )
    read = (
        f"diamond: the layer that a method tells; shade: its {100 * agreed.confidence:g} % "
        "interval; grey: none, or not resolved; a bar spans its layer; light bands and whiskers: "
        "pointwise intervals; dotted: the share that counts"
    )
    return "<br>".join([recipe, read, _together(agreed)])


def _together(agreed: Agreement) -> str:
    """Who agrees and who differs, as the summary says it."""
    lines = together(agreed.witnesses, agreed.differences)
    return textwrap.shorten(" ".join(lines), 600, placeholder=" ...")
