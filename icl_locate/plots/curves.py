"""Figures: each function returns a plotly Figure; none shows or writes anything."""

from collections.abc import Sequence

import plotly.graph_objects as go
from transformer_lens.model_bridge import TransformerBridge

from icl_locate._types import Part, Segment
from icl_locate.errors import PromptError
from icl_locate.location import Location, locate
from icl_locate.results import SweepResult
from icl_locate.tokens import Prompts, check_tokenizer

# Okabe and Ito's palette: told apart by colour-blind readers
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SEGMENT_COLOURS = {
    Segment.BOS: "#BBBBBB",
    Segment.INSTRUCTIONS: "#E69F00",
    Segment.EXAMPLES: "#56B4E9",
    Segment.QUERY: "#009E73",
    Segment.GENERATED: "#CC79A7",
}
METRIC_TITLES = {
    "bleu": "BLEU",
    "bleu_lc": "BLEU, lowercased",
    "chrf": "chrF2",
    "exact_match": "exact match",
    "token_accuracy": "token accuracy",
    "log_prob": "log-probability of the target (nats)",
}
_LINE_WIDTH = 76


def layer_curves(
    result: SweepResult,
    locations: Sequence[Location] | None = None,
    *,
    title: str | None = None,
) -> go.Figure:
    """The score over start layers: a curve a condition, with its interval, ceiling and location.

    A band is the bootstrap's pointwise interval, a thin dashed line the ceiling of the curve in its
    colour, a diamond the recognition layer with its interval as a bar.

    Args:
        locations: what `locate` found; with none given it is computed with its defaults.
        title: the figure's title; ``None`` names task and model.
    """
    locations = locations or locate(result)
    figure = go.Figure()
    drawn: set[float] = set()
    for i, location in enumerate(locations):
        colour, dash = PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]
        figure.add_traces([_band(result, location, colour), _curve(result, location, colour, dash)])
        if location.layer is not None:
            figure.add_trace(_marker(location, colour))
        if location.ceiling not in drawn:
            drawn.add(location.ceiling)
            figure.add_hline(y=location.ceiling, line={"dash": "dash", "width": 1, "color": colour})
    metric = METRIC_TITLES.get(result.metric, result.metric)
    provenance = result.provenance
    figure.update_layout(
        template="plotly_white",
        title=title or f"{provenance.get('task')}, {provenance.get('model')}",
        xaxis={
            "title": "layer from which the context is hidden (last: never)",
            "tickmode": "linear" if result.n_layers <= 16 else "auto",
            "zeroline": False,
        },
        yaxis={"title": metric, "zeroline": False},
        legend={"title": "hidden: recognised by layer"},
        hovermode="closest",
        margin={"b": 110},
    )
    _caption(figure, caption(result, locations))
    return figure


def caption(result: SweepResult, locations: Sequence[Location]) -> str:
    """The recipe in three lines: what a reader needs to judge the numbers."""
    provenance = result.provenance
    how = locations[0]
    return (
        f"{provenance.get('n_shots')} shots, {len(result.targets)} queries, seeds "
        f"{', '.join(map(str, result.seeds))}; {provenance.get('signature')}<br>"
        f"bands: {100 * how.confidence:g} % paired bootstrap over items and seeds "
        f"({how.n_resamples} resamples)<br>"
        f"dashed: ceilings; diamonds: recovery of {100 * how.threshold:g} % for good"
    )


def prompt_segments(model: TransformerBridge, prompts: Prompts, index: int = 0) -> go.Figure:
    """One prompt's tokens in reading order, coloured by segment; hover shows part, shot and id.

    Raises:
        PromptError: if there is no prompt ``index``.
    """
    if not 0 <= index < len(prompts):
        raise PromptError(f"prompt {index} does not exist: expected 0 to {len(prompts) - 1}")
    tokenizer = check_tokenizer(model.tokenizer)
    real = prompts.attention_mask[index]
    columns = (prompts.tokens, prompts.segments, prompts.parts, prompts.shots)
    rows = list(zip(*(column[index][real].tolist() for column in columns), strict=True))
    pieces = [_printable(str(tokenizer.decode([row[0]]))) for row in rows]
    places = _flow(pieces)
    figure = go.Figure()
    for segment in sorted({row[1] for row in rows}):
        chosen = [i for i, row in enumerate(rows) if row[1] == segment]
        figure.add_trace(_token_markers(Segment(segment), chosen, rows, pieces, places))
    for row, piece, (x, y) in zip(rows, pieces, places, strict=True):
        figure.add_annotation(
            x=x + len(piece) / 2,
            y=-y,
            text=_escape(piece),
            showarrow=False,
            font={"family": "monospace", "size": 12, "color": "#000000"},
            bgcolor=SEGMENT_COLOURS[Segment(row[1])],
            opacity=0.9,
        )
    n_lines = places[-1][1] + 1
    figure.update_layout(
        template="plotly_white",
        title=f"prompt {index}: {len(rows)} tokens by segment",
        xaxis={"visible": False, "range": [-1, _LINE_WIDTH + 4]},
        yaxis={"visible": False, "range": [-n_lines + 0.3, 0.7]},
        height=160 + 26 * n_lines,
        legend={"orientation": "h", "y": -0.05},
    )
    return figure


def _curve(result: SweepResult, location: Location, colour: str, dash: str) -> go.Scatter:
    low, high = location.score_interval.tolist()
    details = list(zip(low, high, location.recovery.tolist(), strict=True))
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
            "recovery %{customdata[2]:.2f}<extra></extra>"
        ),
    )


def _legend(location: Location) -> str:
    if location.layer is None:
        return f"{location.condition}: no effect"
    interval = "" if location.interval is None else " [{}, {}]".format(*location.interval)
    return f"{location.condition}: {location.layer}{interval}"


def _band(result: SweepResult, location: Location, colour: str) -> go.Scatter:
    low, high = location.score_interval.tolist()
    layers = list(result.layers)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=layers + layers[::-1],
        y=high + low[::-1],
        mode="lines",
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.12)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=location.condition,
    )


def _marker(location: Location, colour: str) -> go.Scatter:
    layer = location.layer or 0
    low, high = location.interval or (layer, layer)
    return go.Scatter(
        x=[layer],
        y=[float(location.scores[layer])],
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


def _caption(figure: go.Figure, text: str) -> None:
    figure.add_annotation(
        text=text,
        xref="paper",
        yref="paper",
        x=0,
        y=-0.2,
        yanchor="top",
        xanchor="left",
        align="left",
        showarrow=False,
        font={"size": 10, "color": "#555555"},
    )


def _token_markers(
    segment: Segment,
    chosen: Sequence[int],
    rows: Sequence[tuple[int, int, int, int]],
    pieces: Sequence[str],
    places: Sequence[tuple[int, int]],
) -> go.Scatter:
    hover = [
        f"{_escape(pieces[i])} (token {rows[i][0]}, position {i})<br>{segment.name}"
        + (f", {Part(rows[i][2]).name.lower()}" if rows[i][2] else "")
        + (f", example {rows[i][3]}" if rows[i][3] else "")
        for i in chosen
    ]
    return go.Scatter(
        x=[places[i][0] + len(pieces[i]) / 2 for i in chosen],
        y=[-places[i][1] for i in chosen],
        mode="markers",
        name=segment.name,
        marker={"symbol": "square", "size": 12, "color": SEGMENT_COLOURS[segment]},
        hovertext=hover,
        hoverinfo="text",
    )


def _flow(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where each piece stands: its column, and its line, wrapped at line breaks and at the edge."""
    places: list[tuple[int, int]] = []
    x = y = 0
    for piece in pieces:
        if x and x + len(piece) > _LINE_WIDTH:
            x, y = 0, y + 1
        places.append((x, y))
        x += len(piece) + 1
        if "⏎" in piece:
            x, y = 0, y + 1
    return places


def _printable(piece: str) -> str:
    return piece.replace("\n", "⏎").replace("\t", "⇥").strip(" ") or "␣"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
