"""What marks a recognition layer on its curve: a diamond with its interval, and falls."""

import textwrap

import plotly.graph_objects as go

from icl_locate.masking.location import Location
from icl_locate.plots.frame import plain


def reaches(location: Location) -> bool:
    """Whether the upper end with no shape assumed lies above the interval's."""
    upper, interval = location.upper_any, location.interval
    return upper is not None and interval is not None and upper > interval[1]


def upper_end(location: Location, colour: str, height: float) -> list[go.Scatter]:
    """From the interval's upper end to the one with no shape assumed, where that is above it."""
    if location.interval is None or not reaches(location):
        return []
    return [
        go.Scatter(
            x=[location.interval[1], location.upper_any],
            y=[height, height],
            mode="lines",
            line={"color": colour, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
            legendgroup=location.condition,
            showlegend=False,
        )
    ]


def dips(location: Location, colour: str) -> list[go.Scatter]:
    """The layers at which a curve falls beyond noise."""
    if not location.dips:
        return []
    scores = dict(zip(location.layers, location.scores.tolist(), strict=True))
    return [
        go.Scatter(
            x=list(location.dips),
            y=[scores[layer] for layer in location.dips],
            mode="markers",
            marker={
                "symbol": "triangle-down",
                "size": 11,
                "color": colour,
                "line": {"width": 1, "color": "white"},
            },
            legendgroup=location.condition,
            showlegend=False,
            hovertemplate=(
                f"<b>{plain(location.condition)}</b>, layer %{{x}}: %{{y:.3g}}<br>"
                "falls beyond noise, below an earlier layer<extra></extra>"
            ),
        )
    ]


_SYMBOLS = {"recognised": "diamond", "never recovered": "square", "not resolved": "diamond-open"}


def marker(location: Location, colour: str, height: float) -> go.Scatter:
    """A diamond at the recognition layer, or a square where there is none, and its interval."""
    layer = location.layer or 0
    low, high = location.interval or (layer, layer)
    is_open = location.verdict == "not resolved"
    return go.Scatter(
        x=[layer],
        y=[height],
        mode="markers",
        marker={
            "symbol": _SYMBOLS[location.verdict],
            "size": 13,
            "color": colour,
            "line": {"width": 2.5 if is_open else 1.5, "color": colour if is_open else "white"},
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
        hovertemplate=f"{_hover(location)}<extra></extra>",
    )


def _hover(location: Location) -> str:
    """A location in lines that fit a box."""
    lines = [location.label]
    if location.upper_any is not None:
        lines.append(f"with no shape assumed: by layer {location.upper_any}")
    lines += [f"effect {location.worth}", *location.notes]
    parts = [part for line in lines for part in textwrap.wrap(line, 60)]
    return "<br>".join([f"<b>{plain(location.condition)}</b> hidden", *parts])
