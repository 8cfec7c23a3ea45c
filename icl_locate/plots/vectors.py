"""Figures of vectors: their scores by layer or strength, beside controls; whose answer wins."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
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
from icl_locate.studies.beside import Beside
from icl_locate.studies.intervals import Spread
from icl_locate.vectors import (
    LayerCurve,
    LayerScores,
    Override,
    Patched,
    Peak,
    StrengthScores,
    TaskVectors,
    locate_peak,
)
from icl_locate.vectors.task_result import VECTOR

_GREY = "#666666"
_LEVELS = {
    "few_shot": ("few-shot", _GREY, "dash"),
    "zero_shot": ("zero-shot", _GREY, "dot"),
    "ceiling": ("ceiling, with examples", _GREY, "dash"),
    "floor": ("floor, nothing put in", _GREY, "dot"),
    "task_alone": ("the examples' task, no vector", PALETTE[0], "dot"),
    "other_alone": ("the vector's task, no vector", PALETTE[1], "dot"),
}
"""Scores without a vector: their names, colours and dashes."""
_WHAT = {
    TaskVectors: "task vectors",
    LayerScores: "function vector",
    LayerCurve: "function vector",
    Patched: "states put into other prompts",
    StrengthScores: "in-context vectors",
    Override: "examples against a vector",
}


@checked(ResultError)
def transfer_curves(
    result: TaskVectors | LayerScores | LayerCurve | Patched,
    peak: Peak | None = None,
    *,
    confidence: float = 0.95,
) -> go.Figure:
    """What vectors do after each layer: a curve each and for its controls, with their intervals.

    Grey lines are the scores without a vector, and with examples. A diamond is the peak of the
    vector's curve, its bar the layers that could be it; states of `patch_states` have none drawn.

    Args:
        peak: what `locate_peak` found; with none given it is computed.
        confidence: of the intervals.

    Raises:
        ResultError: a peak of other layers; a metric that is not known here.
    """
    layers, figure = list(result.layers), go.Figure()
    found = _find_peak(result, peak, confidence)
    labels = {} if found is None else {0: found.label}
    _add_curves(figure, layers, _arms(result), confidence, "layer", labels)
    _add_levels(figure, result, layers, 0.5)
    said = [_bands(confidence)]
    if found is not None and found.layer is not None:
        figure.add_trace(_diamond(found))
        said.append(
            f"diamond: the peak, its bar the layers that could be it; until: the last layer with "
            f"{100 * found.threshold:g} % of its gain"
        )
    if isinstance(result, TaskVectors):
        said.append("scores are of the dev queries, by which the layer is chosen")
    _finish(figure, result, "; ".join(said))
    figure.update_xaxes(count_axis("layer after which states are put in", max(layers)))
    return figure


@checked(ResultError)
def strength_curves(result: StrengthScores, *, confidence: float = 0.95) -> go.Figure:
    """What vectors at all layers do by how far they steer, beside controls, with intervals.

    Raises:
        ResultError: a metric that is not known here.
    """
    order = np.argsort(result.strengths)
    strengths, figure = [result.strengths[i] for i in order], go.Figure()
    arms = {name: spread[order] for name, spread in _arms(result).items()}
    _add_curves(figure, strengths, arms, confidence, "strength", {})
    room = 0.03 * (strengths[-1] - strengths[0]) or 0.01
    _add_levels(figure, result, strengths, room)
    _finish(figure, result, _bands(confidence))
    away = " (below 0: away from the targets)" if strengths[0] < 0 else ""
    figure.update_xaxes(title=f"strength{away}", zeroline=False)
    return figure


@checked(ResultError)
def overrides(result: Override, *, confidence: float = 0.95) -> go.Figure:
    """Which answer wins after each layer: that of the examples in the prompt, or of the vector.

    A marker is filled where its answer scores higher than the other's beyond noise.

    Raises:
        ResultError: a metric that is not known here.
    """
    layers, figure = list(result.layers), go.Figure()
    names = [f"the examples' task: {plain(result.provenance.get('task'))}"]
    names.append(f"the vector's task: {plain(result.provenance.get('other'))}")
    arms = dict(zip(names, _arms(result).values(), strict=True))
    _add_curves(figure, layers, arms, confidence, "layer", {})
    wins = result.to_dataframe(confidence)["wins"]
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    for answer, trace in zip(result.answers, lines, strict=True):
        symbols = ["circle" if name == answer else "circle-open" for name in wins]
        trace.update(marker={"symbol": symbols, "size": 8})
    _add_levels(figure, result, layers, 0.5)
    said = "filled: scores higher than the other answer beyond noise"
    _finish(figure, result, f"{_bands(confidence)}; {said}")
    figure.update_xaxes(count_axis("layer after which the vector is put in", max(layers)))
    return figure


def _arms(result: Any) -> dict[str, Spread]:
    """How each arm's scores scatter, the vector's first."""
    if isinstance(result, TaskVectors):
        return {name: result.curve(name).spread() for name in (VECTOR, *result.controls)}
    spread = result.spread()
    if isinstance(result, LayerCurve):
        return {str(result.provenance.get("arm", "vector")): spread}
    names = result.answers if isinstance(result, Override) else result.arms
    return {name: spread[i] for i, name in enumerate(names)}


def _find_peak(result: Any, peak: Peak | None, confidence: float) -> Peak | None:
    if isinstance(result, Patched):
        return None
    curve = result.curve() if isinstance(result, LayerScores) else result
    found = locate_peak(curve, confidence=confidence) if peak is None else peak
    if found.layers != tuple(result.layers):
        expected = f"that of the result's layers, {list(result.layers)}"
        refuse("peak", list(found.layers), expected, ResultError)
    return found


def _add_curves(
    figure: go.Figure,
    places: Sequence[int | float],
    arms: Mapping[str, Spread],
    confidence: float,
    axis: str,
    labels: Mapping[int, str],
) -> None:
    """A curve an arm.

    Args:
        axis: what the places are.
        labels: second lines of the legend, by the arm's place.
    """
    for i, (name, spread) in enumerate(arms.items()):
        colour, dash, is_arm = _look(name, list(arms))
        symbol = "circle" if i == 0 else "circle-open" if is_arm else "x-thin-open"
        low, high = spread.interval(confidence).tolist()
        if is_arm and np.isfinite([low, high]).all():
            figure.add_trace(band(places, low, high, colour, name))
        figure.add_scatter(
            x=list(places),
            y=spread.mean.tolist(),
            customdata=list(zip(low, high, strict=True)),
            mode="lines+markers",
            name=f"{plain(name)}<br>{labels[i]}" if i in labels else plain(name),
            legendgroup=name,
            line={"color": colour, "dash": dash, "width": 2 if is_arm else 1},
            marker={"size": 6, "symbol": symbol},
            hovertemplate=(
                f"<b>{plain(name)}</b>, {axis} %{{x}}<br>"
                "%{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra></extra>"
            ),
        )


def _look(name: str, names: Sequence[str]) -> tuple[str, str, bool]:
    """An arm's colour and dash, and whether it is none of the controls of a place.

    Places of `patch_states` have a colour each, which their controls share.
    """
    base, _, control = name.partition(": ")
    if base not in names:  # a colon of its own
        base, control = name, ""
    arms = [one for one in names if one.partition(": ")[0] not in names or ": " not in one]
    at = arms.index(base)
    ends = list(dict.fromkeys(one.partition(": ")[2] for one in names if one not in arms))
    dash = ends.index(control) + 1 if control else 0 if ends else at
    return PALETTE[at % len(PALETTE)], DASHES[dash % len(DASHES)], not control


def _diamond(peak: Peak) -> go.Scatter:
    """The peak on the first curve, and the layers that could be it."""
    layer = peak.layer or 0
    low, high = peak.interval or (layer, layer)
    resolved = peak.verdict == "peak"
    edge = (1.5, "white") if resolved else (2.5, PALETTE[0])
    return go.Scatter(
        x=[layer],
        y=[peak.value],
        mode="markers",
        marker={
            "symbol": "diamond" if resolved else "diamond-open",
            "size": 13,
            "color": PALETTE[0],
            "line": {"width": edge[0], "color": edge[1]},
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - layer],
            "arrayminus": [layer - low],
            "color": PALETTE[0],
            "thickness": 1.5,
        },
        showlegend=False,
        hovertemplate=f"{peak.label}<extra></extra>",
    )


def _add_levels(
    figure: go.Figure, result: Beside, places: Sequence[int | float], room: float
) -> None:
    """The scores without a vector, as lines across."""
    for field, (name, colour, dash) in _LEVELS.items():
        if not hasattr(result, field):
            continue
        level = float(getattr(result, field).mean())
        figure.add_scatter(
            x=[min(places) - room, max(places) + room],
            y=[level, level],
            mode="lines",
            name=f"{name}: {level:.3g}",
            line={"color": colour, "dash": dash, "width": 1.5},
            hovertemplate=f"{name}: {level:.3g}<extra></extra>",
        )


def _bands(confidence: float) -> str:
    return f"bands: {100 * confidence:g} % intervals over items and seeds"


def _finish(figure: go.Figure, result: Any, said: str) -> None:
    recorded = result.provenance
    figure.update_layout(
        template="plotly_white",
        title=f"{about(recorded)}: {_WHAT[type(result)]}",
        yaxis={"title": metric_title(result.metric), "zeroline": False},
        height=560,
    )
    add_caption(figure, f"{recipe(result)}<br>{said}")
