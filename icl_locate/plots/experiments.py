"""Figures of single-layer importance, of shots, and of how answers fail."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.importance import LayerImportance, layer_importance
from icl_locate.masking.location import locate
from icl_locate.masking.result import SweepResult
from icl_locate.plots.curves import recipe
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


@checked(ResultError)
def importance_curves(
    result: SweepResult, importances: Sequence[LayerImportance] | None = None
) -> go.Figure:
    """What is lost when one layer alone (or a window from it on) is masked, by condition.

    Args:
        importances: what `layer_importance` found; with none given it is computed.
    """
    importances = importances or layer_importance(result)
    figure = go.Figure()
    for i, found in enumerate(importances):
        colour, dash = PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]
        layers, (low, high) = list(found.layers), found.interval.tolist()
        figure.add_trace(band(layers, low, high, colour, found.condition))
        figure.add_scatter(
            x=layers,
            y=found.loss.tolist(),
            customdata=list(zip(low, high, strict=True)),
            mode="lines+markers",
            name=f"{plain(found.condition)} (ceiling {found.ceiling:.3g})",
            legendgroup=found.condition,
            line={"color": colour, "dash": dash},
            hovertemplate=(
                f"<b>{plain(found.condition)}</b>, layer %{{x}}<br>"
                "loss %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra></extra>"
            ),
        )
    figure.add_hline(y=0, line={"width": 1, "color": "#888888"})
    scope = str(result.provenance.get("scope"))
    where = "layer masked alone" if scope == "only" else f"first of {scope[7:]} masked layers"
    metric = metric_title(result.metric)
    figure.update_layout(
        template="plotly_white",
        title=about(result.provenance),
        xaxis=count_axis(where, result.n_layers),
        yaxis={"title": f"{metric} lost", "zeroline": False},
        legend={"title": "masked"},
    )
    bands = f"bands: {100 * importances[0].confidence:g} % intervals over items and seeds"
    add_caption(figure, f"{recipe(result)}<br>{bands}")
    return figure


@checked(ResultError)
def shots_curves(results: Mapping[int, SweepResult], condition: str | None = None) -> go.Figure:
    """One condition's curve for each number of shots, with intervals and recognition layers.

    Args:
        results: what `sweep_shots` gave.
        condition: which; ``None`` means the first of the results.

    Raises:
        ResultError: if there are no results, or one lacks the condition.
    """
    if not results:
        raise ResultError("no results were given: expected one for each number of shots")
    first = next(iter(results.values()))
    condition = condition or first.conditions[0]
    figure = go.Figure()
    for i, (n_shots, result) in enumerate(results.items()):
        if condition not in result.conditions:
            raise ResultError(
                f"the result with {n_shots} shots has no condition {condition!r}: it has "
                f"{', '.join(result.conditions)}"
            )
        found = locate(result)[result.conditions.index(condition)]
        colour, dash = PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]
        layers, (low, high) = list(result.layers), found.score_interval.tolist()
        figure.add_trace(band(layers, low, high, colour, str(n_shots)))
        figure.add_scatter(
            x=layers,
            y=found.scores.tolist(),
            mode="lines+markers",
            name=f"{n_shots}: {found.label}",
            legendgroup=str(n_shots),
            line={"color": colour, "dash": dash},
            hovertemplate=f"<b>{n_shots} shots</b>, layer %{{x}}: %{{y:.3g}}<extra></extra>",
        )
    metric = metric_title(first.metric)
    figure.update_layout(
        template="plotly_white",
        title=f"{about(first.provenance)}: {plain(condition)}",
        xaxis=count_axis("layer from which the context is hidden (last: never)", first.n_layers),
        yaxis={"title": metric, "zeroline": False},
        legend={"title": "shots, and the verdict [95 % interval]"},
    )
    bands = "bands: 95 % intervals over items and seeds"
    add_caption(figure, f"{recipe(first, shots=False)}<br>{bands}")
    return figure


@checked(ResultError)
def failure_curves(
    result: SweepResult, rates: Mapping[str, Float[Tensor, "condition layer seed"]]
) -> go.Figure:
    """The share of answers that fail in each way, over the layers: a panel for each condition.

    Args:
        rates: what `failure_rates` gave for the result.
    """
    figure = make_subplots(
        rows=len(result.conditions),
        cols=1,
        shared_xaxes=True,
        subplot_titles=[f"{plain(condition)} hidden" for condition in result.conditions],
        vertical_spacing=0.25 / max(len(result.conditions), 2),
    )
    for row in range(len(result.conditions)):
        for i, (name, rate) in enumerate(rates.items()):
            figure.add_scatter(
                x=list(result.layers),
                y=rate[row].mean(dim=-1).tolist(),
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=row == 0,
                line={"color": PALETTE[i % len(PALETTE)], "dash": DASHES[i % len(DASHES)]},
                row=row + 1,
                col=1,
            )
    figure.update_yaxes(range=[-0.03, 1.03], title="share")
    figure.update_xaxes(count_axis("", result.n_layers))
    figure.update_xaxes(
        title="layer from which the context is hidden (last: never)", row=len(result.conditions)
    )
    figure.update_layout(
        template="plotly_white",
        title=f"{about(result.provenance)}: failures",
        legend={"title": "answers that are"},
        height=160 + 190 * len(result.conditions),
    )
    return figure
