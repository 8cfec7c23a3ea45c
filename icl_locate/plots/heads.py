"""What a model is worth without some of its heads."""

from collections.abc import Sequence

import plotly.graph_objects as go

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked
from icl_locate.context_heads import HeadSetCurve
from icl_locate.errors import ResultError
from icl_locate.induction.arms import Comparison
from icl_locate.induction.result import AblationResult
from icl_locate.plots.frame import (
    DASHES,
    PALETTE,
    PERCENT,
    about,
    add_caption,
    band,
    count_axis,
    metric_title,
    plain,
)

_COLOURS = {"full": "#888888", "induction": PALETTE[1], "random": PALETTE[0]}
_NAMES = {
    "full": "whole model",
    "induction": "without induction heads",
    "random": "without random heads",
}


@checked(ResultError)
def ablation_bars(
    result: AblationResult,
    comparisons: Sequence[Comparison] | None = None,
    *,
    n_shots: int | None = None,
) -> go.Figure:
    """The score of the whole model, without its induction heads, and without random heads.

    Bars are means over seeds (and controls) with their intervals; stars say how sure the difference
    between induction and random heads is.

    Args:
        comparisons: what ``result.compare()`` gave; with none given it is computed.
        n_shots: which number of shots; ``None`` means the largest.

    Raises:
        ResultError: if the result has no such number of shots.
    """
    chosen = _of_shots(result, comparisons, n_shots)
    labels = [f"{plain(_title(c.intervention))}<br>{plain(c.share)} of heads" for c in chosen]
    figure = go.Figure()
    for kind in ("full", "induction", "random"):
        values = [getattr(c, kind) for c in chosen]
        figure.add_bar(
            x=labels,
            y=[mean for mean, _, _ in values],
            name=_NAMES[kind],
            marker={"color": _COLOURS[kind], "pattern": {"shape": "/" if kind == "random" else ""}},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [high - mean for mean, _, high in values],
                "arrayminus": [mean - low for mean, low, _ in values],
                "color": "#000000",
                "thickness": 1.2,
            },
            hovertemplate=f"<b>%{{x}}</b><br>{_NAMES[kind]}: %{{y:.3g}}<extra></extra>",
        )
    for label, found in zip(labels, chosen, strict=True):
        top = max(found.full[2], found.induction[2], found.random[2])
        figure.add_annotation(
            x=label,
            y=top,
            yshift=14,
            showarrow=False,
            text=_stars(found.p_value),
            font={"size": 14},
        )
    _finish(figure, result, chosen, tick_lines=2)
    figure.update_layout(barmode="group", xaxis={"title": "what is done to the heads"})
    return figure


@checked(ResultError)
def fraction_curves(
    result: AblationResult,
    comparisons: Sequence[Comparison] | None = None,
    *,
    n_shots: int | None = None,
) -> go.Figure:
    """The score over the share of heads taken out: induction heads solid, random ones dashed.

    Args:
        comparisons, n_shots: as `ablation_bars` says.

    Raises:
        ResultError: if the result has no such number of shots.
    """
    chosen = _of_shots(result, comparisons, n_shots)
    figure = go.Figure()
    for i, name in enumerate(dict.fromkeys(c.intervention for c in chosen)):
        some = sorted((c for c in chosen if c.intervention == name), key=lambda c: c.fraction)
        for kind, dash in (("induction", "solid"), ("random", "dash")):
            values = [some[0].full, *(getattr(c, kind) for c in some)]
            shares = [0.0, *(c.fraction for c in some)]
            low, high = [v[1] for v in values], [v[2] for v in values]
            colour = PALETTE[i % len(PALETTE)]
            figure.add_trace(band(shares, low, high, colour, name + kind))
            figure.add_scatter(
                x=shares,
                y=[v[0] for v in values],
                customdata=list(zip(low, high, strict=True)),
                mode="lines+markers",
                name=f"{plain(_title(name))}, {kind} heads",
                line={"color": colour, "dash": dash},
                marker={"symbol": "circle" if kind == "induction" else "circle-open"},
                hovertemplate=(
                    f"<b>{plain(_title(name))}, {kind} heads</b><br>"
                    "%{x:.1%} of heads: %{y:.3g} "
                    "[%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra></extra>"
                ),
            )
    _finish(figure, result, chosen)
    figure.update_xaxes(title="share of all heads", tickformat=PERCENT, zeroline=False)
    return figure


@checked(ResultError)
def head_set_curves(*curves: HeadSetCurve) -> go.Figure:
    """The score over the number of heads that still read the context, or from which it is hidden.

    Raises:
        ResultError: if there are no curves.
    """
    if not curves:
        raise ResultError("no curves were given: expected at least one")
    figure = go.Figure()
    for i, curve in enumerate(curves):
        sizes, colour = list(curve.sizes), PALETTE[i % len(PALETTE)]
        what = "kept" if curve.mode == "kept" else "hidden from"
        names = [f"layer {layer}, head {head}" for layer, head in curve.heads.heads]
        low, high = curve.interval.tolist()
        figure.add_trace(band(sizes, low, high, colour, f"{what}{i}"))
        figure.add_scatter(
            x=sizes,
            y=curve.scores.mean(dim=1).tolist(),
            customdata=["nothing", *names] if len(sizes) == len(names) + 1 else sizes,
            mode="lines+markers",
            name=f"{what} {len(names)} heads",
            line={"color": colour, "dash": DASHES[i % len(DASHES)]},
            hovertemplate=f"{what} %{{x}} heads (%{{customdata}}): %{{y:.3g}}<extra></extra>",
        )
    first = curves[0]
    for value, text in ((first.ceiling, "nothing hidden"), (first.floor, "hidden from all heads")):
        figure.add_hline(y=value, line={"dash": "dot", "width": 1}, annotation_text=text)
    figure.update_layout(
        template="plotly_white",
        xaxis=count_axis("heads", max(max(curve.sizes) for curve in curves)),
        yaxis={"title": metric_title(first.metric), "zeroline": False},
        legend={"title": "the context is"},
    )
    return figure


def _of_shots(
    result: AblationResult, comparisons: Sequence[Comparison] | None, n_shots: int | None
) -> list[Comparison]:
    wanted = max(result.shots) if n_shots is None else n_shots
    if wanted not in result.shots:
        raise ResultError(
            f"n_shots is {wanted}: the result has {', '.join(map(str, result.shots))}"
        )
    found = result.compare() if comparisons is None else comparisons
    chosen = [comparison for comparison in found if comparison.n_shots == wanted]
    if not chosen:
        refuse("comparisons", found, f"some with {wanted} shots, by result.compare()", ResultError)
    return chosen


def _title(intervention: str) -> str:
    return {
        "zero": "zero ablation",
        "mean_z": "mean ablation",
        "mean_input": "mean-input ablation",
        "resample": "resample ablation",
    }.get(intervention, intervention)


def _stars(p_value: float) -> str:
    levels = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
    return next((stars for limit, stars in levels if p_value <= limit), "")


def _finish(
    figure: go.Figure, result: AblationResult, chosen: Sequence[Comparison], tick_lines: int = 1
) -> None:
    provenance = result.provenance
    n_controls = len({arm.control for arm in result.arms if arm.kind == "random"})
    figure.update_layout(
        template="plotly_white",
        title=about(provenance),
        yaxis={"title": metric_title(result.metric), "zeroline": False},
        legend={"title": ""},
        height=560,
    )
    add_caption(
        figure,
        f"{chosen[0].n_shots} shots, {result.n_items} queries, seeds "
        f"{', '.join(map(str, result.seeds))}, {n_controls} random controls; "
        f"{provenance.get('signature')}<br>"
        "intervals: over items, seeds and controls; * p ≤ 0.05, ** p ≤ 0.01, "
        "*** p ≤ 0.001: induction against these random heads, paired permutation test",
        tick_lines=tick_lines,
    )
