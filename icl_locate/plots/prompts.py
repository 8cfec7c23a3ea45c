"""A prompt's tokens, coloured by segment."""

from collections.abc import Sequence

import plotly.graph_objects as go

from icl_locate._types import Part, Segment
from icl_locate.checks.arguments import check_count
from icl_locate.checks.signatures import checked
from icl_locate.errors import PromptError
from icl_locate.models.bridge import Model
from icl_locate.plots.frame import plain
from icl_locate.prompts.encoding import spell
from icl_locate.prompts.tokens import Prompts, check_tokenizer

SEGMENT_COLOURS = {
    Segment.BOS: "#BBBBBB",
    Segment.INSTRUCTIONS: "#E69F00",
    Segment.EXAMPLES: "#56B4E9",
    Segment.QUERY: "#009E73",
    Segment.GENERATED: "#CC79A7",
}
_LINE_WIDTH = 76


@checked(PromptError)
def prompt_segments(model: Model, prompts: Prompts, index: int = 0) -> go.Figure:
    """One prompt's tokens in reading order, coloured by segment; hover shows part, shot and id.

    Tokens of `Prompts.from_tokens` without a tokenizer are shown as their ids.

    Raises:
        PromptError: if there is no prompt ``index``.
    """
    check_count("index", index, least=0, most=len(prompts) - 1, error=PromptError)
    tokenizer = check_tokenizer(model.tokenizer) if prompts.as_text else None
    real = prompts.attention_mask[index]
    columns = (prompts.tokens, prompts.segments, prompts.parts, prompts.shots)
    rows = list(zip(*(column[index][real].tolist() for column in columns), strict=True))
    pieces = [_printable(spell(tokenizer, [row[0]], special=True)) for row in rows]
    places = _flow(pieces)
    figure = go.Figure()
    for segment in sorted({row[1] for row in rows}):
        chosen = [i for i, row in enumerate(rows) if row[1] == segment]
        figure.add_trace(_token_markers(Segment(segment), chosen, rows, pieces, places))
    for row, piece, (x, y) in zip(rows, pieces, places, strict=True):
        figure.add_annotation(
            x=x + len(piece) / 2,
            y=-y,
            text=plain(piece),
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


def _token_markers(
    segment: Segment,
    chosen: Sequence[int],
    rows: Sequence[tuple[int, int, int, int]],
    pieces: Sequence[str],
    places: Sequence[tuple[int, int]],
) -> go.Scatter:
    hover = [
        f"{plain(pieces[i])} (token {rows[i][0]}, position {i})<br>{segment.name}"
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
