"""A score of every head, layer by head."""

from collections.abc import Collection

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.signatures import checked, number
from icl_locate.errors import ResultError
from icl_locate.induction.scores import HeadScores
from icl_locate.plots.curves import recipe
from icl_locate.plots.frame import about, add_caption, count_axis, metric_title
from icl_locate.studies.heads import HeadTable


@checked(ResultError, limit=number(above=0))
def head_map(
    scores: HeadScores | HeadTable | Float[Tensor, "layer head"],
    *,
    title: str | None = None,
    marked: Collection[tuple[int, int]] = (),
    limit: float | None = None,
    boundary: int | None = None,
) -> go.Figure:
    """A score of every head, layer by head; hover shows all that is known of it.

    Args:
        scores: what `head_scores` gave, of which the induction score is drawn; a study of single
            heads, such as `head_indirect_effects`, of which their worth is; or any one score.
        title: what the score is; ``None``: the induction score, or what the study measured.
        marked: heads to be framed, such as a selection.
        limit: the value at which colours end; ``None`` means 1 for `HeadScores`, the greatest
            value for any other.
        boundary: a layer below which a line is drawn, such as a recognition layer.
    """
    title = title or (_measured(scores) if isinstance(scores, HeadTable) else "induction score")
    values = _values(scores)
    n_layers, n_heads = values.shape
    greatest = float(values.abs().max()) or 1.0
    end = limit or (1.0 if isinstance(scores, HeadScores) else greatest)
    figure = go.Figure(
        go.Heatmap(
            z=values.tolist(),
            colorscale="RdBu_r",
            zmid=0,
            zmin=-end,
            zmax=end,
            xgap=1,
            ygap=1,
            hovertext=_hover(scores, title),
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    for layer, head in marked:
        figure.add_shape(
            type="rect",
            x0=head - 0.47,
            x1=head + 0.47,
            y0=layer - 0.46,
            y1=layer + 0.46,
            line={"color": "#000000", "width": 2},
        )
    if boundary is not None:
        figure.add_hline(y=boundary - 0.5, line={"dash": "dash", "color": "#000000"})
    figure.update_layout(
        template="plotly_white",
        title=title,
        xaxis=count_axis("head", n_heads - 1),
        yaxis=count_axis("layer", n_layers - 1),
        height=max(420, 180 + 20 * n_layers),
    )
    if isinstance(scores, HeadTable):
        add_caption(figure, recipe(scores))
    return figure


def _values(scores: HeadScores | HeadTable | Tensor) -> Float[Tensor, "layer head"]:
    if isinstance(scores, HeadScores):
        return scores.induction
    return scores.worth if isinstance(scores, HeadTable) else scores


def _measured(table: HeadTable) -> str:
    """What a study of heads measured, and in what."""
    metric = metric_title(table.metric)
    recipe = table.provenance
    return f"{about(recipe)}: each head's worth<br><sup>{metric}</sup>"


def _hover(scores: HeadScores | HeadTable | Tensor, title: str) -> list[list[str]]:
    """What is known of each head."""
    values = _values(scores)
    low, high = scores.interval() if isinstance(scores, HeadTable) else (values, values)
    rows = []
    for layer, row in enumerate(values.tolist()):
        cells = []
        for head, value in enumerate(row):
            if isinstance(scores, HeadScores):
                said = _describe(scores, layer, head)
            elif isinstance(scores, HeadTable):
                said = f"{value:.3g} [{low[layer, head]:.3g}, {high[layer, head]:.3g}]"
            else:
                said = f"{title} {value:.3f}"
            cells.append(f"<b>layer {layer}, head {head}</b><br>{said}")
        rows.append(cells)
    return rows


def _describe(scores: HeadScores, layer: int, head: int) -> str:
    matching = ", ".join(
        f"{float(scores.prefix_matching[i, layer, head]):.3f} at {length} (control "
        f"{float(scores.control[i, layer, head]):.3f})"
        for i, length in enumerate(scores.lengths)
    )
    return (
        f"induction {float(scores.induction[layer, head]):.3f}<br>"
        f"prefix matching {matching}<br>"
        f"share of attention off BOS {float(scores.normalized[:, layer, head].min()):.3f}<br>"
        f"copying {float(scores.copying[layer, head]):.3f}<br>"
        f"previous token {float(scores.previous_token[layer, head]):.3f}"
    )
