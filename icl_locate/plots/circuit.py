"""Figures of the inference circuit: what its measures say at each layer, and of each head."""

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from icl_locate.checks.arguments import check_choice
from icl_locate.checks.signatures import checked
from icl_locate.circuit import Disconnections, HeadMeasure, LayerMeasure, QueryKeyView
from icl_locate.errors import ResultError
from icl_locate.plots.curves import recipe
from icl_locate.plots.frame import (
    DASHES,
    PALETTE,
    about,
    add_caption,
    band,
    count_axis,
    metric_title,
    plain,
)
from icl_locate.plots.maps import head_map

TITLES = {
    "kernel_alignment": "kernel alignment",
    "label_alignment": "kernel alignment of labels with forerunner tokens",
    "centroid_probe": "accuracy of the nearest class mean",
    "forerunner_heads": "share of prompts with attention from label to forerunner token",
    "induction_heads": "share of prompts with attention from the last token to labels",
    "label_assignment": "share of attention to labels that is on right ones",
}
"""Of axes, by the measure's name."""
WORDS = {
    "x->s": "texts into forerunner tokens",
    "x_q->s_q": "the query's text into its own",
    "s->y": "forerunner tokens into labels",
    "y->s_q": "labels into the answer",
    "s->s": "the bypass",
}
"""What kinds of edges carry, in words."""


@checked(ResultError)
def measure_curves(result: LayerMeasure, *, confidence: float = 0.95) -> go.Figure:
    """A measure at each layer, a curve an arm with its interval; dashes are its chance.

    Args:
        confidence: of the intervals.

    Raises:
        ResultError: if the confidence is out of range.
    """
    figure, layers = go.Figure(), list(result.layers)
    low, high = (bound.tolist() for bound in result.score_interval(confidence))
    means = result.scores.mean(dim=-1).tolist()
    for i, arm in enumerate(result.arms):
        colour = PALETTE[i % len(PALETTE)]
        dash = DASHES[i // len(PALETTE) % len(DASHES)]
        figure.add_trace(band(layers, low[i], high[i], colour, arm))
        figure.add_scatter(
            x=layers,
            y=means[i],
            customdata=list(zip(low[i], high[i], strict=True)),
            mode="lines+markers",
            name=plain(arm),
            legendgroup=arm,
            line={"color": colour, "dash": dash, "width": 2},
            marker={"size": 6},
            hovertemplate=(
                f"<b>{plain(arm)}</b>, layer %{{x}}<br>"
                "%{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra></extra>"
            ),
        )
    _add_chance(figure, result)
    said = f"bands: {100 * confidence:g} % intervals over prompts and seeds"
    _finish(figure, result, said)
    figure.update_xaxes(count_axis("layer", max(layers)))
    return figure


@checked(ResultError)
def measure_map(result: HeadMeasure, arm: str | None = None) -> go.Figure:
    """One arm of a measure of every head, layer by head, the mean over prompts and seeds.

    Args:
        arm: ``None`` means the first, the measure itself.

    Raises:
        ResultError: if there is no such arm.
    """
    name = result.arms[0] if arm is None else arm
    place = result.arms.index(check_choice("arm", name, result.arms, error=ResultError))
    figure = head_map(
        result.scores[place].mean(dim=-1),
        title=f"{_of(result)}: {plain(name)}<br><sup>{_measure_of(result)}</sup>",
    )
    add_caption(figure, recipe(result))
    return figure


@checked(ResultError)
def cut_bars(result: Disconnections, *, confidence: float = 0.95) -> go.Figure:
    """The score with each kind of edges cut, window by window, beside as many random edges cut.

    The dashed line is the score with nothing cut.

    Args:
        confidence: of the intervals.

    Raises:
        ResultError: if the confidence is out of range, or the metric is not known here.
    """
    n = len(result.edges)
    figure = make_subplots(
        cols=n, shared_yaxes=True, subplot_titles=[_explain(edge) for edge in result.edges],
        horizontal_spacing=0.02,
    )  # fmt: skip
    table = result.to_dataframe(confidence)
    random = "as many random edges cut"
    for arm, name, colour in (("cut", "cut", PALETTE[1]), ("random 0", random, "#999999")):
        if arm not in result.arms:
            continue
        for column, edge in enumerate(result.edges, start=1):
            mine = table[(table["arm"] == arm) & (table["edge"] == edge)]
            figure.add_bar(
                x=mine["window"],
                y=mine["score"],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": (mine["score_high"] - mine["score"]).tolist(),
                    "arrayminus": (mine["score"] - mine["score_low"]).tolist(),
                    "thickness": 1,
                    "width": 2,
                },
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker={"color": colour},
                hovertemplate=f"{edge}, layers %{{x}}: %{{y:.3g}}<extra>{name}</extra>",
                row=1,
                col=column,
            )
    ceiling = float(result.ceiling.mean())
    figure.add_hline(y=ceiling, line={"dash": "dash", "color": "#666666", "width": 1.5})
    said = f"bars: {100 * confidence:g} % intervals over queries and seeds; dashed: nothing cut"
    _finish(figure, result, said)
    figure.update_layout(
        title=f"{_of(result)}: edges of the circuit cut",
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.16, "yanchor": "bottom"},
        margin={"t": 130},
    )
    title = metric_title(result.metric)
    figure.update_yaxes(title=None)
    figure.update_yaxes(title=title, col=1)
    figure.update_xaxes(type="category", title="layers")
    return figure


@checked(ResultError)
def query_key_plane(view: QueryKeyView) -> go.Figure:
    """Labels as a head sees them: each example's, by its class, and the query's direction."""
    figure, classes = go.Figure(), list(dict.fromkeys(view.classes))
    for i, name in enumerate(classes):
        mine = [place for place, label in enumerate(view.classes) if label == name]
        points = view.points[mine].tolist()
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            mode="markers",
            name=f"label {plain(name)}{', the right one' if name == view.asked else ''}",
            marker={"color": PALETTE[i % len(PALETTE)], "size": 9, "symbol": i},
        )
    away = view.query - view.zero
    far = (view.points - view.zero).norm(dim=1).max() / away.norm().clamp(min=1e-12)
    (x0, y0), (x, y) = view.zero.tolist(), (view.zero + far * away).tolist()
    figure.add_scatter(
        x=[x0, x],
        y=[y0, y],
        mode="lines+markers",
        name="the query's direction",
        line={"color": "#000000", "dash": "dot"},
        marker={"color": "#000000", "size": [8, 0], "symbol": "triangle-up"},
    )
    axes = [f"component {i}: {share:.0%}" for i, share in enumerate(view.explained.tolist(), 1)]
    counted = "" if view.counted is None else f", correct in {view.counted:.0%} of prompts"
    figure.update_layout(
        template="plotly_white",
        title=f"{_of(view)}: layer {view.layer}, head {view.head}{counted}",
        xaxis={"title": axes[0], "zeroline": False},
        yaxis={"title": axes[1], "zeroline": False},
        height=560,
    )
    said = "labels through the head's queries and keys (W_Q^T W_K): the further along the query's"
    add_caption(figure, f"{said} direction, the more attention")
    return figure


def _explain(edge: str) -> str:
    """An edge as figures show it, and in words."""
    arrow = edge.replace("->", " \u2192 ")
    return f"{arrow}<br><sup>{WORDS[edge]}</sup>"


def _measure_of(result: Any) -> str:
    return TITLES.get(result.metric) or plain(result.metric.replace("_", " "))


def _of(result: Any) -> str:
    return about(result.provenance)


def _add_chance(figure: go.Figure, result: LayerMeasure) -> None:
    """What says nothing, as one line where it is the same for all arms, else one an arm."""
    rows = [row for row in result.chance.tolist() if all(value == value for value in row)]
    for row in {tuple(row) for row in rows}:
        figure.add_scatter(
            x=list(result.layers),
            y=list(row),
            mode="lines",
            name=f"chance: {row[0]:.3g}",
            line={"color": "#666666", "dash": "dash", "width": 1.5},
            hovertemplate="chance: %{y:.3g}<extra></extra>",
        )


def _finish(figure: go.Figure, result: Any, said: str) -> None:
    name = result.metric
    figure.update_layout(
        template="plotly_white",
        title=f"{_of(result)}: {plain(name.replace('_', ' '))}",
        yaxis={"title": _measure_of(result), "zeroline": False},
        height=560,
    )
    add_caption(figure, f"{recipe(result)}<br>{said}")
