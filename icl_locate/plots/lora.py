"""The score over the tuned layer, beside a masking curve on the same axis."""

import plotly.graph_objects as go

from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.lora import LoraResult
from icl_locate.masking.result import SweepResult
from icl_locate.plots.frame import (
    PALETTE,
    about,
    add_caption,
    band,
    count_axis,
    metric_title,
    plain,
)


@checked(ResultError)
def lora_curves(
    tuned: LoraResult, result: SweepResult | None = None, condition: str | None = None
) -> go.Figure:
    """The score of the model tuned at each layer; its seeds as dots, its interval as a band.

    Args:
        result: a sweep whose curve (the context hidden from a layer on) is drawn beside it; the
            title then tells the rank correlation of the two.
        condition: which curve; ``None`` means the first.

    Raises:
        ResultError: if the sweep has no such condition, or other layers.
    """
    figure, layers = go.Figure(), list(tuned.layers)
    low, high = tuned.interval().tolist()
    figure.add_trace(band(layers, low, high, PALETTE[1], "tuned"))
    figure.add_scatter(
        x=layers,
        y=tuned.scores.mean(dim=-1).tolist(),
        mode="lines+markers",
        name="tuned at this layer alone",
        line={"color": PALETTE[1]},
    )
    for j, seed in enumerate(tuned.seeds):
        figure.add_scatter(
            x=layers,
            y=tuned.scores[:, j].tolist(),
            mode="markers",
            name=f"seed {seed}",
            marker={"color": PALETTE[1], "symbol": "circle-open"},
            showlegend=False,
        )
    figure.add_hline(y=tuned.untuned, line={"dash": "dot", "width": 1}, annotation_text="untuned")
    title = f"{about(tuned.provenance)}: LoRA by layer"
    if result is not None:
        name = condition or result.conditions[0]
        rho, less, more = tuned.rank_correlation(result, name)
        title += f"<br><sup>rank correlation {rho:.2f} [{less:.2f}, {more:.2f}]</sup>"
        figure.add_scatter(
            x=list(result.layers),
            y=result.scores[result.conditions.index(name)].mean(dim=-1).tolist(),
            mode="lines+markers",
            name=f"{plain(name)} hidden from this layer on",
            line={"color": PALETTE[0], "dash": "dash"},
        )
    figure.update_layout(
        template="plotly_white",
        title=title,
        xaxis=count_axis("layer", result.n_layers if result is not None else max(layers)),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        margin={"t": 130},
        yaxis={"title": metric_title(tuned.metric), "zeroline": False},
    )
    add_caption(
        figure,
        f"{tuned.statistics.shape[2]} queries without instruction or examples, seeds "
        f"{', '.join(map(str, tuned.seeds))}; {tuned.provenance.get('signature')}<br>"
        "band: 95 % interval over items and seeds",
    )
    return figure
