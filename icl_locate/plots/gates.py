"""Learnt gates, and the score as heads are closed."""

import plotly.graph_objects as go

from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.gates import GatesResult
from icl_locate.plots.frame import PALETTE, about, add_caption, count_axis, metric_title
from icl_locate.plots.maps import head_map


@checked(ResultError)
def gate_map(result: GatesResult) -> go.Figure:
    """Every head's gate, layer by head; framed are the heads that the task needs."""
    title = "gates" if result.objective == "prune" else "gates, closed where it hurts"
    return head_map(result.gates, title=title, marked=sorted(result.needed), limit=1.0)


@checked(ResultError)
def pruning_curve(result: GatesResult) -> go.Figure:
    """The score with more and more heads at zero, the lowest gate first."""
    names = ["none", *(f"layer {layer}, head {head}" for layer, head in result.order)]
    figure = go.Figure(
        go.Scatter(
            x=list(range(len(result.curve))),
            y=result.curve.tolist(),
            customdata=names[: len(result.curve)],
            mode="lines+markers",
            line={"color": PALETTE[0]},
            hovertemplate="%{x} heads closed, last %{customdata}: %{y:.3g}<extra></extra>",
        )
    )
    figure.add_vline(
        x=len(result.closed), line={"dash": "dash", "width": 1}, annotation_text="closed by gates"
    )
    recipe = result.provenance
    figure.update_layout(
        template="plotly_white",
        title=f"{about(recipe)}: {result.objective}",
        xaxis=count_axis("heads closed", len(result.curve) - 1),
        yaxis={"title": metric_title(result.metric), "zeroline": False},
    )
    add_caption(
        figure,
        f"{recipe.get('n_shots')} shots, {recipe.get('n_queries')} queries, lambda "
        f"{recipe.get('penalty')}, seed {recipe.get('seed')}; {recipe.get('signature')}"
        + "".join(f"<br>careful: {doubt}" for doubt in result.doubts),
    )
    return figure
