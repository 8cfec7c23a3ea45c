"""Curves of several runs over one axis."""

from collections.abc import Mapping

import plotly.graph_objects as go

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.location import Location, locate
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
)  # fmt: skip

_HIDDEN = "layer from which the context is hidden"
_ROOM = 0.06  # of the axis, for what stands at its ends


@checked(ResultError)
def run_curves(
    results: Mapping[str, SweepResult],
    condition: str | None = None,
    *,
    confidence: float = 0.95,
    title: str | None = None,
) -> go.Figure:
    """One condition's curve of each run, with its interval and recognition layer, on one axis.

    Of models of one depth the axis is layers; of others the share of their depth. A diamond is the
    recognition layer, an open one is not resolved; its interval stands in the legend.

    Args:
        results: sweeps by a name for each.
        condition: which; ``None`` means the first of the first run.
        confidence: of the intervals.
        title: the figure's title; ``None`` names tasks and models.

    Raises:
        ResultError: if there are no runs, one lacks the condition, or their metrics differ.
    """
    if not results:
        refuse("results", results, "sweeps by name, at least one", ResultError)
    first = next(iter(results.values()))
    name = condition or first.conditions[0]
    for label, result in results.items():
        if name not in result.conditions:
            there = ", ".join(result.conditions)
            raise ResultError(f"the run {label!r} has no condition {name!r}: it has {there}")
        if result.metric != first.metric:
            raise ResultError(
                f"the runs are scored by {first.metric} and {result.metric}: scores of two metrics "
                "share no axis"
            )
    same = len({result.n_layers for result in results.values()}) == 1
    figure = go.Figure()
    for i, (label, result) in enumerate(results.items()):
        found = locate(result, confidence=confidence)[result.conditions.index(name)]
        figure.add_traces(_curve(label, found, i, 1 if same else result.n_layers))
    titles = dict.fromkeys(about(result.provenance) for result in results.values())
    share = f"{100 * confidence:g} %"
    figure.update_layout(
        template="plotly_white",
        title=title or f"{'; '.join(titles)}: {plain(name)}",
        xaxis=_axis(first.n_layers if same else None),
        yaxis={"title": metric_title(first.metric), "zeroline": False},
        legend={"title": f"run, and the verdict [{share} interval]"},
        height=560,
    )
    recipes = dict.fromkeys(recipe(result) for result in results.values())
    says = f"bands: {share} intervals over items and seeds; diamonds: recognition layers"
    add_caption(figure, "<br>".join([*recipes, says]))
    return figure


def _axis(n_layers: int | None) -> dict[str, object]:
    """Of layers, or of shares of the depth."""
    if n_layers is None:
        return {"title": f"{_HIDDEN}, as a share of the depth", "zeroline": False}
    axis = count_axis(f"{_HIDDEN} (last: never)", n_layers)
    return {**axis, "range": [-_ROOM * n_layers, (1 + _ROOM) * n_layers]}


def _curve(label: str, found: Location, i: int, unit: int) -> list[go.Scatter]:
    """A run's band, curve and diamond.

    Args:
        unit: what layers are divided by.
    """
    colour, dash = PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]
    places, (low, high) = [layer / unit for layer in found.layers], found.score_interval.tolist()
    curve = go.Scatter(
        x=places,
        y=found.scores.tolist(),
        customdata=list(zip(found.layers, low, high, strict=True)),
        mode="lines+markers",
        name=f"{plain(label)}<br>{found.label}",
        legendgroup=label,
        line={"color": colour, "dash": dash, "width": 2},
        hovertemplate=(
            f"<b>{plain(label)}</b>, layer %{{customdata[0]}}<br>%{{y:.3g}} "
            "[%{customdata[1]:.3g}, %{customdata[2]:.3g}]<extra></extra>"
        ),
    )
    if found.layer is None:
        return [band(places, low, high, colour, label), curve]
    is_open = found.verdict == "not resolved"
    diamond = go.Scatter(
        x=[found.layer / unit],
        y=[found.height],
        mode="markers",
        marker={
            "symbol": "diamond-open" if is_open else "diamond",
            "size": 13,
            "color": colour,
            "line": {"width": 2, "color": colour if is_open else "white"},
        },
        legendgroup=label,
        showlegend=False,
        hovertemplate=f"<b>{plain(label)}</b><br>{plain(found)}<extra></extra>",
    )
    return [band(places, low, high, colour, label), curve, diamond]
