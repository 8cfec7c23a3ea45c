"""What changes over the checkpoints of a training: recognition layers, best heads, numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from icl_locate.checkpoints import OverCheckpoints, Values
from icl_locate.checks.arguments import check_choice, refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.induction.scores import HeadScores
from icl_locate.masking.location import Location
from icl_locate.masking.result import SweepResult
from icl_locate.plots.curves import recipe
from icl_locate.plots.frame import DASHES, PALETTE, add_caption, metric_title, plain
from icl_locate.studies.heads import HeadTable

_SYMBOLS = {
    "recognised": "diamond",
    "not resolved": "diamond-open",
    "never recovered": "square",
}
_MEANING = {
    "recognised": "diamond: recognised by",
    "not resolved": "open diamond: not resolved",
    "never recovered": "square: never recovered",
}
_ROW = 300
"""Pixels of a panel."""


@checked(ResultError)
def over_checkpoints(
    result: OverCheckpoints,
    measure: str | None = None,
    *,
    condition: str | None = None,
    n_heads: int = 5,
    confidence: float = 0.95,
    title: str | None = None,
) -> go.Figure:
    """Each measure over the training's steps: a panel each, one below the other, evenly spaced.

    Of sweeps a map of the score over start layers, with the recognition layers and their intervals
    on it; of scores of heads the best heads' lines; of numbers their lines.

    Args:
        measure: the only one to draw; ``None`` means all.
        condition: of sweeps; ``None`` means the first.
        n_heads: how many heads: those with the highest score at any step.
        confidence: of the recognition layers' intervals.
        title: the figure's title; ``None`` names model and task.

    Raises:
        ResultError: if there is no such measure or condition, or a measure has no figure.
    """
    named = [*result.measures] if measure is None else [measure]
    for name in named:
        check_choice("measure", name, result.measures, error=ResultError)
    figure = make_subplots(rows=len(named), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    notes = []
    for row, name in enumerate(named, start=1):
        draw = _panel(name, result.results[name][0])
        options = {"condition": condition, "n_heads": n_heads, "confidence": confidence}
        traces, axis, note = draw(result, name, options)
        for trace in traces:
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title=axis, zeroline=False, row=row, col=1)
        notes.append(note)
    _lay_out(figure, result, named, title)
    add_caption(figure, "<br>".join(["checkpoints evenly spaced", *dict.fromkeys(notes)]))
    return figure


def _lay_out(
    figure: go.Figure, result: OverCheckpoints, named: Sequence[str], title: str | None
) -> None:
    """Axes, sizes, and where each panel's legend stands."""
    recipes = [result.results[name][0].provenance for name in named]  # type: ignore[attr-defined]
    task = next((f", {plain(found['task'])}" for found in recipes if "task" in found), "")
    figure.update_layout(
        template="plotly_white",
        title=title or f"{plain(recipes[0].get('model'))}{task}: over the training",
        height=160 + _ROW * len(named),
        hovermode="closest",
    )
    steps = list(map(str, result.steps))
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=steps)
    figure.update_xaxes(title="training step", row=len(named), col=1)
    for row in range(1, len(named) + 1):
        low, high = figure.get_subplot(row, 1).yaxis.domain
        key = "legend" if row == 1 else f"legend{row}"
        figure.update_traces(legend=key, selector={"yaxis": f"y{row if row > 1 else ''}"})
        figure.update_layout({key: {"y": high, "yanchor": "top", "x": 1.02}})
        bar = {"y": (low + high) / 2, "len": high - low, "x": 1.02, "thickness": 14}
        heat = {"type": "heatmap", "yaxis": f"y{row if row > 1 else ''}"}
        figure.update_traces(colorbar=bar, selector=heat)


Panel = tuple[list[Any], str, str]
"""Traces, the axis' title, a line for the caption."""


def _panel(name: str, first: Any) -> Callable[[OverCheckpoints, str, dict[str, Any]], Panel]:
    """What draws the results of a kind."""
    if isinstance(first, SweepResult):
        return _recognition
    if isinstance(first, (HeadScores, HeadTable)):
        return _heads
    if isinstance(first, Values) and first.numbers:
        return _numbers
    return refuse(
        "measure", name, "one that gave sweeps, scores of heads, or numbers", ResultError,
        f"of a {type(first).__name__} draw to_dataframe()",
    )  # fmt: skip


def _recognition(result: OverCheckpoints, name: str, options: dict[str, Any]) -> Panel:
    """The score over layers and steps, and where the task is recognised."""
    sweeps: dict[int, SweepResult] = result.of(name)
    first = sweeps[result.steps[0]]
    condition = options["condition"] or first.conditions[0]
    for found in sweeps.values():
        check_choice("condition", condition, found.conditions, error=ResultError)
    places = result.locate(name, confidence=options["confidence"])
    located = [places[step][sweeps[step].conditions.index(condition)] for step in result.steps]
    metric = metric_title(first.metric)
    rows = [found.scores.tolist() for found in located]
    heat = go.Heatmap(
        x=list(map(str, result.steps)),
        y=list(first.layers),
        z=[list(column) for column in zip(*rows, strict=True)],
        colorscale="Viridis",
        colorbar={"title": {"text": metric, "side": "right"}},
        showscale=True,
        hovertemplate="step %{x}, hidden from layer %{y} on: %{z:.3g}<extra></extra>",
    )
    verdicts = {found.verdict for found in located}
    meaning = "; ".join(text for verdict, text in _MEANING.items() if verdict in verdicts)
    share = f"{100 * options['confidence']:g} %"
    note = f"{recipe(first)}; {meaning or 'no effect at any step'}; bars: {share} intervals"
    axis = f"{plain(condition)}<br>hidden from layer"
    return [heat, *_line(result.steps, located)], axis, note


def _line(steps: Sequence[int], located: Sequence[Location]) -> list[go.Scatter]:
    """The recognition layers that there are, with their intervals."""
    there = [
        (str(step), found.layer, found.interval or (found.layer, found.layer), found)
        for step, found in zip(steps, located, strict=True)
        if found.layer is not None
    ]
    if not there:
        return []
    return [
        go.Scatter(
            x=[step for step, *_ in there],
            y=[layer for _, layer, *_ in there],
            error_y={
                "array": [high - layer for _, layer, (_, high), _ in there],
                "arrayminus": [layer - low for _, layer, (low, _), _ in there],
                "color": colour,
                "thickness": width,
                "width": 4,
            },
            mode="lines+markers",
            line={"color": colour, "width": width},
            marker={"size": size, "symbol": [_SYMBOLS.get(f.verdict, "x") for *_, f in there]},
            text=[found.label for *_, found in there],
            hovertemplate="step %{x}: %{text}<extra></extra>",
            showlegend=False,
        )
        for colour, width, size in (("#ffffff", 4, 12), (PALETTE[1], 2, 9))  # on any colour
    ]


def _heads(result: OverCheckpoints, name: str, options: dict[str, Any]) -> Panel:
    """The lines of the best heads."""
    scores = isinstance(result.results[name][0], HeadScores)
    table = result.stack("induction" if scores else "worth", name)
    best = best_heads(table, options["n_heads"])
    lines = {f"{layer}.{head}": table[:, layer, head].tolist() for layer, head in best}
    axis = "induction score" if scores else "worth of a head"
    return _lines(result.steps, lines), axis, f"lines: the {len(best)} best heads, layer.head"


def best_heads(table: Float[Tensor, "step layer head"], n_heads: int) -> list[tuple[int, int]]:
    """The heads with the highest score at any step, the highest first."""
    highest = torch.nan_to_num(table, nan=-torch.inf).amax(dim=0)
    order = highest.flatten().argsort(descending=True, stable=True)[:n_heads].tolist()
    return [divmod(place, highest.shape[1]) for place in order]


def _numbers(result: OverCheckpoints, name: str, options: dict[str, Any]) -> Panel:  # noqa: ARG001
    """A line for each number."""
    names = result.results[name][0].numbers  # type: ignore[attr-defined]
    lines = {key: result.stack(key, name).tolist() for key in names}
    alone = len(lines) == 1
    title = next(iter(lines)) if alone and [*lines] != ["value"] else name
    return _lines(result.steps, lines, legend=not alone), plain(title.replace("_", " ")), ""


def _lines(
    steps: Sequence[int], lines: dict[str, list[float]], *, legend: bool = True
) -> list[go.Scatter]:
    return [
        go.Scatter(
            x=list(map(str, steps)),
            y=values,
            mode="lines+markers",
            name=plain(key),
            showlegend=legend,
            line={"color": PALETTE[i % len(PALETTE)], "dash": DASHES[i % len(DASHES)]},
            hovertemplate=f"<b>{plain(key)}</b>, step %{{x}}: %{{y:.3g}}<extra></extra>",
        )
        for i, (key, values) in enumerate(lines.items())
    ]
