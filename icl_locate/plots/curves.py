"""The curves of a sweep: score over start layers."""

from collections.abc import Sequence

import plotly.graph_objects as go

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.location import Location, locate
from icl_locate.masking.published import ReferenceCurve
from icl_locate.masking.result import SweepResult
from icl_locate.plots.calibration import raw_curve
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
from icl_locate.plots.markers import dips, marker, reaches, upper_end
from icl_locate.studies.result import Measured


@checked(ResultError)
def layer_curves(
    result: SweepResult,
    locations: Sequence[Location] | None = None,
    *,
    title: str | None = None,
    reference: Sequence[ReferenceCurve] = (),
) -> go.Figure:
    """The score over start layers: a curve a condition, with its interval, ceiling and location.

    A band is the pointwise interval, a thin dashed line the ceiling of the curve in its colour. A
    diamond is the recognition layer (an open one where it is not resolved), a square the last layer
    where nothing was recovered before it; a bar is its interval, a dotted line goes on to the upper
    end with no shape assumed. Those that would hide one another stand above each other. A triangle
    is a layer at which the score falls beyond noise. Of a calibrated score a thin dotted line
    shows the one without calibration.

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
        if result.is_calibrated:
            figure.add_trace(raw_curve(result, location.condition, colour))
        if location.ceiling not in drawn:
            drawn.add(location.ceiling)
            figure.add_hline(y=location.ceiling, line={"dash": "dash", "width": 1, "color": colour})
    heights = _heights(locations)
    for i, y in heights.items():
        found, colour = locations[i], PALETTE[i % len(PALETTE)]
        figure.add_traces([*upper_end(found, colour, y), marker(found, colour, y)])
        figure.add_traces(dips(found, colour))
    names = [location.condition for location in locations]
    figure.add_traces([_reference(curve, names, result.n_layers) for curve in reference])
    metric = metric_title(result.metric)
    provenance = result.provenance
    axis = count_axis("layer from which the context is hidden (last: never)", result.n_layers)
    room = 0.06 * result.n_layers  # for markers, but for no tick: there is no layer
    figure.update_layout(
        template="plotly_white",
        title=title or f"{about(provenance)}",
        xaxis={**axis, "range": [-room, result.n_layers + room]},
        yaxis={"title": metric, "zeroline": False},
        legend={"title": _legend_title(locations)},
        hovermode="closest",
        height=600 + 45 * max(0, len(locations) - 6),  # the legend has two lines for each
    )
    add_caption(figure, caption(result, locations))
    return figure


@checked(ResultError)
def caption(result: SweepResult, locations: Sequence[Location]) -> str:
    """The recipe in three lines: what a reader needs to judge the numbers."""
    if not locations:
        refuse("locations", locations, "what locate found", ResultError)
    how = locations[0]
    raw = "; thin dotted lines: without calibration" if result.is_calibrated else ""
    dotted = " (dotted: upper end with no shape assumed)" if any(map(reaches, locations)) else ""
    return (
        f"{recipe(result)}<br>"
        f"bands and bars: {100 * how.confidence:g} % intervals over items and seeds{dotted}; "
        f"dashed: ceilings{raw}<br>{_symbols(locations)}"
    )


def _symbols(locations: Sequence[Location]) -> str:
    """What the markers that are there mean."""
    verdicts = {location.verdict for location in locations}
    said = [
        (
            f"diamond: {100 * locations[0].threshold:g} % recovered for good",
            "recognised" in verdicts,
        ),
        ("open diamond: not resolved", "not resolved" in verdicts),
        ("square: never recovered", "never recovered" in verdicts),
        ("triangle: falls beyond noise", any(location.dips for location in locations)),
        ("raised where one would hide another", any(found.layer for found in locations)),
    ]
    return "; ".join(text for text, is_there in said if is_there) or "no layer: no effect"


def recipe(result: Measured, *, shots: bool = True) -> str:
    """Shots, queries, seeds and the metric's signature, in a line."""
    provenance = result.provenance
    return (
        (f"{provenance.get('n_shots')} shots, " if shots else "")
        + f"{result.n_items} queries, seeds {', '.join(map(str, result.axes['seed']))}; "
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
            f"<b>{plain(location.condition)}</b> hidden from layer %{{x}} on<br>"
            "score %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<br>"
            "recovery %{customdata[2]}<extra></extra>"
        ),
    )


def _recoveries(location: Location) -> list[str]:
    """What is recovered at each layer, in words that no rounding turns into recovery."""
    if location.layer is None:
        return [f"of nothing: {location.verdict}"] * len(location.scores)
    shares = zip(
        location.layers, location.recovery.tolist(), location.recovered.tolist(), strict=True
    )
    return [f"{share:.3f}{_remark(location, layer, enough)}" for layer, share, enough in shares]


def _remark(location: Location, layer: int, enough: bool) -> str:
    """How a layer's recovery goes with the verdict, where that needs words."""
    if layer in location.dips:
        return ": falls beyond noise"
    if layer >= (location.layer or 0):
        return "" if enough else ": below the threshold, within noise"
    return ": not for good" if enough else ": not yet recovered"


def _legend(location: Location) -> str:
    return f"{plain(location.condition)}<br>{location.label}"


def _legend_title(locations: Sequence[Location]) -> str:
    return f"hidden, and the verdict [{100 * locations[0].confidence:g} % interval]"


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
