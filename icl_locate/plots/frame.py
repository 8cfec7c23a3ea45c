"""What all figures have in common: colours, names of metrics, bands, axes, captions, HTML."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito's palette: told apart by colour-blind readers
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
METRIC_TITLES = {
    "bleu": "BLEU",
    "bleu_lc": "BLEU, lowercased",
    "chrf": "chrF2",
    "exact_match": "exact match",
    "token_accuracy": "token accuracy",
    "label_accuracy": "label accuracy",
    "label_accuracy_contextual": "label accuracy, calibrated (contextual)",
    "label_accuracy_domain": "label accuracy, calibrated (domain)",
    "first_token_accuracy": "first-token accuracy",
    "first_token_prob": "probability of the first token",
    "log_prob": "log-probability of the target (nats)",
}
CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False}
"""Of figures in pages: no button that uploads somebody's results."""

PERCENT = ".4~%"
"""Ticks of shares: as many digits as keep neighbours apart."""

_LINE, _WIDTH, _BELOW_AXIS = 14, 125, 66


def band(
    layers: Sequence[int | float],
    low: Sequence[float],
    high: Sequence[float],
    colour: str,
    group: str,
) -> go.Scatter:
    """An interval over the layers (or other places), in a curve's colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*layers, *reversed(layers)],
        y=[*high, *reversed(low)],
        mode="lines",
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.12)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=group,
    )


def count_axis(title: str, most: int) -> dict[str, Any]:
    """An axis of whole numbers from 0 to ``most``, such as layers, with a tick at whole ones."""
    steps = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64)
    step = next((step for step in steps if most <= 16 * step), math.ceil(most / 16))
    return {"title": title, "tickmode": "linear", "dtick": step, "zeroline": False}


def add_caption(figure: go.Figure, text: str, *, tick_lines: int = 1) -> None:
    """Write a text below a figure, and keep room for it whatever the figure's height.

    Args:
        tick_lines: lines of the labels at the horizontal axis' ticks.
    """
    lines = [part for line in text.split("<br>") for part in textwrap.wrap(line, _WIDTH)]
    above = _BELOW_AXIS + (tick_lines - 1) * _LINE
    figure.add_annotation(
        text="<br>".join(lines),
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        yshift=-above,
        yanchor="top",
        xanchor="left",
        align="left",
        showarrow=False,
        font={"size": 10, "color": "#555555"},
    )
    figure.update_layout(margin={"b": above + _LINE * len(lines) + 12})


def to_html(figure: go.Figure, *, with_script: bool) -> str:
    """A figure as part of a page.

    Args:
        with_script: whether plotly.js comes with it; the first figure of a page brings it for all.
    """
    html = figure.to_html(full_html=False, include_plotlyjs=with_script, config=CONFIG)
    return str(html)
