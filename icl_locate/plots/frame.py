"""What all figures have in common: colours, names of metrics, bands, axes, captions."""

import html
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
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
METRIC_SCALES = {
    "bleu": "how many sequences of up to four words an answer shares with the wanted one, over "
    "all answers together: from 0 (nothing in common) to 100 (the same words in the same order)",
    "chrf": "how many sequences of up to six letters an answer shares with the wanted one, over "
    "all answers together: from 0 (nothing in common) to 100 (the same text)",
    "exact_match": "the share of answers that are the wanted text, spaces around it aside: from 0 "
    "(none) to 1 (all)",
    "token_accuracy": "the share of words that stand where they should: from 0 (none) to 1 (all)",
    "label_accuracy": "the share of queries at which the right label is the likeliest: from 0 to "
    "1, where guessing among k labels gives about 1/k",
    "first_token_accuracy": "the share of queries at which the wanted answer's first token is the "
    "likeliest of all tokens: from 0 (none) to 1 (all)",
    "first_token_prob": "the probability that the model gives the wanted answer's first token, the "
    "mean over queries: from 0 to 1",
    "log_prob": "the logarithm of the probability that the model gives the wanted answer, in nats, "
    "the mean over queries: 0 would be certain, and the further below 0, the less likely",
    "pass@1": "the share of programs that pass their tests: from 0 (none) to 1 (all)",
}
"""What each metric's numbers mean, its variants' too."""
_VARIANT = re.compile("_lc|_contextual|_domain|^bare_|:.*")

CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False}
"""Of figures in pages: no button that uploads somebody's results."""

PERCENT = ".4~%"
"""Ticks of shares: as many digits as keep neighbours apart."""

CAPTION = "caption"
"""The name of the annotation that `add_caption` writes, and of its text before it is wrapped."""

_LINE, _WIDTH, _BELOW_AXIS = 14, 125, 66


def plain(text: object) -> str:
    """A text from outside, such as a condition's name, so that plotly shows it as it stands.

    plotly takes tags, entities and ``%{...}`` for orders in all that it shows.

    >>> plain("<b>a</b> & %{x}")
    '&lt;b&gt;a&lt;/b&gt; &amp; %&#123;x}'
    """
    return html.escape(str(text), quote=False).replace("%{", "%&#123;")


def about(recipe: Mapping[str, Any]) -> str:
    """Task and model, as a title names them."""
    return f"{plain(recipe.get('task'))}, {plain(recipe.get('model'))}"


def metric_title(metric: str) -> str:
    """What an axis says of a metric."""
    return METRIC_TITLES.get(metric) or plain(metric)


def metric_scale(metric: str) -> str:
    """What a metric's numbers mean, in half a sentence; nothing of one that nobody knows here.

    >>> metric_scale("bleu_lc:first_sentence") == METRIC_SCALES["bleu"]
    True
    """
    return METRIC_SCALES.get(_VARIANT.sub("", metric), "")


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
        text: plain, but for ``<br>`` between its lines.
        tick_lines: lines of the labels at the horizontal axis' ticks.
    """
    lines = [part for line in text.split("<br>") for part in textwrap.wrap(line, _WIDTH)]
    above = _BELOW_AXIS + (tick_lines - 1) * _LINE
    figure.add_annotation(
        name=CAPTION,
        text="<br>".join(map(plain, lines)),
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
    figure.update_layout(margin={"b": above + _LINE * len(lines) + 12}, meta={CAPTION: text})
