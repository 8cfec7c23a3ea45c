"""What dropping the context saves, over the layer from which it is dropped, beside the score."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.plots.frame import (
    DASHES,
    PALETTE,
    PERCENT,
    about,
    add_caption,
    band,
    count_axis,
    metric_title,
)
from icl_locate.savings import MeasuredSavings


@checked(ResultError)
def savings_curves(measured: MeasuredSavings) -> go.Figure:
    """The score above, and below it time, memory and cache as shares of ordinary generation.

    Both panels share the axis of start layers, so that what a user gives up stands over what it
    saves.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    layers, table = list(measured.layers), measured.to_dataframe()
    low, high = measured.interval.tolist()
    figure.add_trace(band(layers, low, high, PALETTE[0], measured.metric), row=1, col=1)
    figure.add_scatter(
        x=layers,
        y=measured.scores.tolist(),
        customdata=list(zip(low, high, strict=True)),
        mode="lines+markers",
        name=metric_title(measured.metric),
        line={"color": PALETTE[0]},
        hovertemplate=(
            "dropped from layer %{x} on<br>score %{y:.3g} [%{customdata[0]:.3g}, "
            "%{customdata[1]:.3g}]<extra></extra>"
        ),
        row=1,
        col=1,
    )
    names = {"prefill": "prefill time", "decode": "decoding time", "peak": "peak memory"}
    for i, (name, title) in enumerate((names | {"cache": "cache"}).items(), start=1):
        figure.add_scatter(
            x=layers,
            y=(1 - table[f"{name}_saved"]).tolist(),
            mode="lines+markers",
            name=title,
            line={"color": PALETTE[i], "dash": DASHES[i]},
            hovertemplate=f"{title}: %{{y:.0%}} of ordinary generation<extra></extra>",
            row=2,
            col=1,
        )
    recipe = measured.provenance
    figure.update_yaxes(title=metric_title(measured.metric), row=1)
    figure.update_yaxes(
        title="of ordinary generation", tickformat=PERCENT, rangemode="tozero", row=2
    )
    figure.update_xaxes(count_axis("", max(layers)))
    figure.update_xaxes(title="layer from which the context is dropped (last: never)", row=2)
    figure.update_layout(
        template="plotly_white",
        title=f"{about(recipe)}: score and cost",
        height=680,
    )
    add_caption(
        figure,
        f"{recipe.get('n_shots')} shots, {recipe.get('n_queries')} queries, "
        f"{recipe.get('max_new_tokens')} new tokens, {recipe.get('device')}; "
        f"{recipe.get('signature')}<br>medians of {measured.prefill_seconds.shape[1]} runs in "
        "turn; band: 95 % interval over items",
    )
    return figure
