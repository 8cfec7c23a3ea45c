"""The curves of a sweep: score over start layers."""

from collections.abc import Sequence

import plotly.graph_objects as go

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.location import Location, locate
from icl_locate.masking.published import ReferenceCurve
from icl_locate.masking.result import SweepResult
from icl_locate.plots.frame import DASHES, METRIC_TITLES, PALETTE, add_caption, band, count_axis


@checked(ResultError)
def layer_curves(
    result: SweepResult,
    locations: Sequence[Location] | None = None,
    *,
    title: str | None = None,
    reference: Sequence[ReferenceCurve] = (),
) -> go.Figure:
    """The score over start layers: a curve a condition, with its interval, ceiling and location.

    A band is the bootstrap's pointwise interval, a thin dashed line the ceiling of the curve in its
    colour, a diamond the recognition layer with its interval as a bar; diamonds that would hide one
    another stand above each other.

    Args:
        locations: what `locate` found; with none given it is computed with its defaults.
        title: the figure's title; ``None`` names task and model.
        reference: published curves to lay under the result's, dotted, their layers scaled to the
            result's depth.
    """
    locations = locations or locate(result)
    figure = go.Figure()
    drawn: set[float] = set()
    for i, location in enumerate(locations):
        colour, dash = PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]
        low, high = location.score_interval.tolist()
        figure.add_trace(band(result.layers, low, high, colour, location.condition))
        figure.add_trace(_curve(result, location, colour, dash))
        if location.ceiling not in drawn:
            drawn.add(location.ceiling)
            figure.add_hline(y=location.ceiling, line={"dash": "dash", "width": 1, "color": colour})
    heights = _heights(locations)
    figure.add_traces(
        [_marker(locations[i], PALETTE[i % len(PALETTE)], y) for i, y in heights.items()]
    )
    names = [location.condition for location in locations]
    figure.add_traces([_reference(curve, names, result.n_layers) for curve in reference])
    metric = METRIC_TITLES.get(result.metric, result.metric)
    provenance = result.provenance
    figure.update_layout(
        template="plotly_white",
        title=title or f"{provenance.get('task')}, {provenance.get('model')}",
        xaxis=count_axis("layer from which the context is hidden (last: never)", result.n_layers),
        yaxis={"title": metric, "zeroline": False},
        legend={"title": "hidden: recognised by layer"},
        hovermode="closest",
    )
    add_caption(figure, caption(result, locations))
    return figure


@checked(ResultError)
def caption(result: SweepResult, locations: Sequence[Location]) -> str:
    """The recipe in three lines: what a reader needs to judge the numbers."""
    if not locations:
        refuse("locations", locations, "what locate found", ResultError)
    how = locations[0]
    return (
        f"{recipe(result)}<br>"
        f"bands: {100 * how.confidence:g} % paired bootstrap over items and seeds "
        f"({how.n_resamples} resamples)<br>"
        f"dashed: ceilings; diamonds: recovery of {100 * how.threshold:g} % for good, raised where "
        "one would hide another"
    )


def recipe(result: SweepResult, *, shots: bool = True) -> str:
    """Shots, queries, seeds and the metric's signature, in a line."""
    provenance = result.provenance
    return (
        (f"{provenance.get('n_shots')} shots, " if shots else "")
        + f"{len(result.targets)} queries, seeds {', '.join(map(str, result.seeds))}; "
        + f"{provenance.get('signature')}"
    )


def _curve(result: SweepResult, location: Location, colour: str, dash: str) -> go.Scatter:
    low, high = location.score_interval.tolist()
    details = list(zip(low, high, _recoveries(location), strict=True))
    return go.Scatter(
        x=list(result.layers),
        y=location.scores.tolist(),
        customdata=details,
        mode="lines+markers",
        name=_legend(location),
        legendgroup=location.condition,
        line={"color": colour, "dash": dash, "width": 2},
        marker={"size": 5},
        hovertemplate=(
            f"<b>{location.condition}</b> hidden from layer %{{x}} on<br>"
            "score %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<br>"
            "recovery %{customdata[2]}<extra></extra>"
        ),
    )


def _recoveries(location: Location) -> list[str]:
    """What is recovered at each layer, in words that no rounding turns into recovery."""
    if location.layer is None:
        return ["of nothing: no effect"] * len(location.scores)
    return [
        f"{share:.3f}{'' if enough else ': not yet recovered'}"
        for share, enough in zip(
            location.recovery.tolist(), location.recovered.tolist(), strict=True
        )
    ]


def _legend(location: Location) -> str:
    if location.layer is None:
        return f"{location.condition}: no effect"
    interval = "" if location.interval is None else " [{}, {}]".format(*location.interval)
    return f"{location.condition}: {location.label}{interval}"


def _reference(curve: ReferenceCurve, conditions: Sequence[str], n_layers: int) -> go.Scatter:
    known = curve.condition in conditions
    place = conditions.index(curve.condition) if known else len(conditions)
    return go.Scatter(
        x=[layer * n_layers / curve.n_layers for layer in curve.points],
        y=list(curve.points.values()),
        customdata=list(curve.points),
        mode="lines+markers",
        name=f"{curve.condition}: {curve.model}, en-fr, published",
        line={"color": PALETTE[place % len(PALETTE)], "dash": "dot", "width": 1.5},
        marker={"size": 4, "symbol": "x"},
        opacity=0.7,
        hovertemplate=(
            f"<b>{curve.condition}</b>, {curve.model}<br>layer %{{customdata}} of {curve.n_layers}"
            f": %{{y}}<br>{curve.source}<extra></extra>"
        ),
    )


def _heights(locations: Sequence[Location]) -> dict[int, float]:
    """Where each location's diamond stands: on its curve, or above it where others would be hidden.

    Diamonds hide one another where their bars overlap and their heights are nearly the same.
    """
    scores = [score for location in locations for score in location.scores.tolist()]
    step = (max(scores) - min(scores)) / 18
    found: dict[int, float] = {}
    spans: dict[int, tuple[float, float]] = {}
    for i, location in enumerate(locations):
        if location.layer is None:
            continue
        low, high = location.interval or (location.layer, location.layer)
        y = location.height
        near = [k for k, span in spans.items() if span[0] - 0.5 < high and low < span[1] + 0.5]
        while any(abs(y - found[k]) < 0.99 * step for k in near):
            y = min(found[k] for k in near if found[k] > y - 0.99 * step) + step
        found[i], spans[i] = y, (low, high)
    return found


def _marker(location: Location, colour: str, height: float) -> go.Scatter:
    layer = location.layer or 0
    low, high = location.interval or (layer, layer)
    return go.Scatter(
        x=[layer],
        y=[height],
        mode="markers",
        marker={
            "symbol": "diamond",
            "size": 13,
            "color": colour,
            "line": {"width": 1.5, "color": "white"},
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - layer],
            "arrayminus": [layer - low],
            "color": colour,
            "thickness": 1.5,
        },
        legendgroup=location.condition,
        showlegend=False,
        hovertemplate=f"{location}<extra></extra>",
    )
