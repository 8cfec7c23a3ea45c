"""Figures of formation: when a circuit is learnt, under which clamps, and which heads carry it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from icl_locate import formation
from icl_locate.checks.signatures import checked, number, one_of, whole
from icl_locate.errors import ResultError
from icl_locate.formation import FormationRun, FormationStudy
from icl_locate.formation.result import THRESHOLD
from icl_locate.plots.frame import DASHES, PALETTE, PERCENT, add_caption, plain
from icl_locate.studies.ranks import spearman

_SEEN = "sequences seen"
_GREY = "#666666"
_THREE = "three vectors to learn", "one given, two to learn", "two given, one to learn"
_SETS = {
    "train": "sequences that are trained on",
    "relabel": "pairs of labels that are held out",
    "exemplar": "classes that are held out",
}
"""The evaluation sets in words."""


@checked(ResultError, threshold=number(above=0), shown=one_of(*_SETS))
def formation_curves(
    study: FormationStudy, *, threshold: float = THRESHOLD, shown: str = "train"
) -> go.Figure:
    """Loss and accuracy over the sequences seen: a colour a clamp set, a line a seed.

    A diamond stands where the loss first falls below the threshold, which is a dashed line.

    Args:
        threshold: of the loss, in nats.
        shown: the evaluation set: "train", "relabel" (held-out pairs of labels) or "exemplar"
            (held-out classes). Times are always those of the training set.
    """
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[3, 2])
    for i, (label, runs) in enumerate(study.runs.items()):
        line: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "dash": DASHES[i % len(DASHES)]}
        line["width"] = 2 if len(runs) == 1 else 1.3
        for run in runs:
            at = run.sets.index(shown)
            losses = run.losses if shown == "train" else run.set_losses[at]
            for row, values in ((1, losses), (2, run.accuracies[at])):
                trace = _curve(run, values, label, line, row == 1 and run is runs[0])
                figure.add_trace(trace, row=row, col=1)
            reached = run.reached(threshold)
            if reached is not None and shown == "train":
                figure.add_trace(_mark(reached, threshold, label, line["color"]), row=1, col=1)
    figure.add_hline(y=threshold, row=1, col=1, line={"dash": "dash", "width": 1, "color": _GREY})
    figure.update_yaxes(title="loss (nats)", rangemode="tozero", row=1)
    figure.update_yaxes(title="accuracy", tickformat=PERCENT, row=2)
    figure.update_xaxes(_log_axis(study.sequences.tolist()))
    figure.update_xaxes(title=_SEEN, row=2)
    said = f"{_SETS[shown]}; dashed: {threshold:.3g} nats"
    marks = "; diamond: the loss of the training set first falls below it"
    title = "When the circuit is learnt, by what is given to it"
    legend = {"title": "given (clamped)", "tracegroupgap": 0}
    figure.update_layout(template="plotly_white", title=title, height=680, legend=legend)
    add_caption(figure, f"{formation_recipe(study)}<br>{said}{marks if shown == 'train' else ''}")
    return figure


@checked(ResultError, threshold=number(above=0))
def formation_times(study: FormationStudy, *, threshold: float = THRESHOLD) -> go.Figure:
    """After how many sequences the loss falls below a threshold: a row a clamp set, a dot a seed.

    Args:
        threshold: of the loss, in nats. A run that never fell below it has an open triangle where
            it ended.
    """
    figure, end, drawn = go.Figure(), int(study.sequences[-1]), []
    for i, (label, times) in enumerate(study.times(threshold).items()):
        places = [end if time is None else time for time in times]
        drawn += places
        figure.add_scatter(
            x=places,
            y=[plain(label)] * len(times),
            mode="markers+text" if len(times) == 1 else "markers",
            text=[f"> {end:,}" if time is None else f"{time:,}" for time in times],
            textposition="top center",
            cliponaxis=False,
            marker={
                "symbol": ["triangle-right-open" if time is None else "circle" for time in times],
                "size": 11,
                "color": PALETTE[i % len(PALETTE)],
            },
            customdata=[
                f"seed {seed}: {_say_time(time, end)}"
                for seed, time in zip(study.seeds, times, strict=True)
            ],
            hovertemplate=f"<b>{plain(label)}</b><br>%{{customdata}}<extra></extra>",
            showlegend=False,
        )
    figure.update_layout(
        template="plotly_white",
        title=f"Sequences until the loss is below {threshold:.3g} nats",
        xaxis={**_log_axis(drawn), "title": _SEEN},
        yaxis={"title": "given (clamped)", "autorange": "reversed"},
        height=200 + 60 * len(study.runs),
    )
    add_caption(figure, formation_recipe(study))
    return figure


@checked(ResultError)
def strength_against_only_head(run: FormationRun) -> go.Figure:
    """What each head of layer 2 is worth alone over its induction strength: a path a head.

    Paths go through training, from light to dark; each ends in a dot with the head's number.
    """
    figure, seen = go.Figure(), run.points
    shades = [i / max(1, len(seen) - 1) for i in range(len(seen))]
    heads = list(zip(run.strengths.T.tolist(), run.only_head.T.tolist(), strict=True))
    for head, (x, y) in enumerate(heads):
        figure.add_scatter(
            x=x,
            y=y,
            customdata=seen,
            mode="lines+markers",
            line={"color": "#cccccc", "width": 1},
            marker={"color": shades, "colorscale": "Blues", "cmin": -0.4, "cmax": 1, "size": 5},
            hovertemplate=(
                f"<b>head {head}</b>, %{{customdata:,}} sequences<br>strength %{{x:.3f}}<br>"
                "accuracy alone %{y:.1%}<extra></extra>"
            ),
            showlegend=False,
        )
    figure.add_scatter(
        x=[x[-1] for x, _ in heads],
        y=[y[-1] for _, y in heads],
        mode="markers+text",
        text=[str(head) for head in range(len(heads))],
        textfont={"color": "white", "size": 11},
        marker={"color": PALETTE[1], "size": 18, "opacity": 0.85},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_layout(
        template="plotly_white",
        title="Heads of layer 2: how they attend, and what each is worth alone",
        xaxis={"title": "induction strength (attention to the right label less to the wrong one)"},
        yaxis={"title": "accuracy with this head alone", "tickformat": PERCENT},
        height=560,
    )
    said = f"numbers: heads at the end, {seen[-1]:,} sequences; paths: over training, darker later"
    add_caption(figure, f"{formation_recipe(run)}<br>{said}; {_say_correlation(run)}")
    return figure


@checked(ResultError)
def head_formation(run: FormationRun) -> go.Figure:
    """Every head over training: layer 1 to the token before, layer 2 to the right label."""
    titles = (
        "layer 1: attention to the token before",
        "layer 2: induction strength",
        "layer 2: accuracy with this head alone",
    )
    figure = make_subplots(rows=3, shared_xaxes=True, vertical_spacing=0.08, subplot_titles=titles)
    for row, values in enumerate((run.previous_token, run.strengths, run.only_head), start=1):
        for head, line in enumerate(values.T.tolist()):
            colour = (*PALETTE, _GREY)[head % (len(PALETTE) + 1)]
            figure.add_scatter(
                x=run.sequences.tolist(),
                y=line,
                mode="lines",
                name=f"head {head}",
                legendgroup=str(head),
                showlegend=row == 1,
                line={"color": colour, "dash": DASHES[head % len(DASHES)], "width": 1.6},
                hovertemplate=f"head {head}, %{{x:,}} sequences: %{{y:.3f}}<extra></extra>",
                row=row,
                col=1,
            )
    figure.update_xaxes(_log_axis(run.points))
    figure.update_xaxes(title=_SEEN, row=3)
    figure.update_yaxes(tickformat=PERCENT, row=3)
    reached = run.reached(THRESHOLD)
    said = ""
    if reached is not None:
        figure.add_vline(x=reached, line={"dash": "dash", "width": 1, "color": _GREY})
        said = f"<br>dashed: the loss falls below {THRESHOLD:.3g} nats, {reached:,} sequences"
    figure.update_layout(template="plotly_white", title="Every head over training", height=760)
    add_caption(figure, f"{formation_recipe(run)}{said}")
    return figure


@checked(ResultError, n_steps=whole(2, 100_000))
def product_of_vectors(*, n_steps: int = 1000, seed: int = 1) -> go.Figure:
    """A circuit in the least: three vectors that are only ever seen multiplied, and learnt.

    The loss over steps with none, one and two of them given, as `formation.product_of_vectors`
    computes it.
    """
    figure, losses = go.Figure(), formation.product_of_vectors(n_steps=n_steps, seed=seed)
    for i, (name, curve) in enumerate(zip(_THREE, losses.tolist(), strict=True)):
        figure.add_scatter(
            x=list(range(n_steps)),
            y=curve,
            mode="lines",
            name=name,
            line={"color": PALETTE[i], "dash": DASHES[i], "width": 2},
            hovertemplate=f"<b>{name}</b><br>step %{{x}}: %{{y:.3f}}<extra></extra>",
        )
    figure.update_layout(
        template="plotly_white",
        title="A product of three vectors, learnt by gradient descent",
        xaxis={"title": "step", "zeroline": False},
        yaxis={"title": "loss (mean squared error, halved)", "rangemode": "tozero"},
        legend={"x": 0.98, "xanchor": "right", "y": 0.98},
        height=460,
    )
    add_caption(figure, f"seed {seed}; all curves begin at the same random vectors of 20 numbers")
    return figure


def formation_recipe(found: FormationRun | FormationStudy) -> str:
    """Task, model and training, in a line."""
    recipe = found.provenance
    task, shape = recipe.get("task"), recipe.get("shape")
    sizes = {**(task if isinstance(task, Mapping) else {})}
    sizes |= shape if isinstance(shape, Mapping) else {}
    seeds = found.seeds if isinstance(found, FormationStudy) else (recipe.get("seed"),)
    heads = found.strengths.shape[-1]
    return (
        f"{sizes.get('n_classes')} classes, {sizes.get('n_labels')} labels; 2 layers of {heads} "
        f"heads; learning rate {recipe.get('learning_rate')}, {recipe.get('batch_size')} sequences "
        f"a step, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    )


def _curve(
    run: FormationRun, values: Any, label: str, line: dict[str, Any], in_legend: bool
) -> go.Scatter:
    """A loss or an accuracy over the sequences seen; the start is at no place of a log axis."""
    begun = run.sequences > 0
    return go.Scatter(
        x=run.sequences[begun].tolist(),
        y=values[begun].tolist(),
        mode="lines",
        name=plain(label),
        legendgroup=label,
        showlegend=in_legend,
        line=line,
        hovertemplate=(
            f"<b>{plain(label)}</b>, seed {run.provenance.get('seed')}<br>"
            "%{x:,} sequences: %{y:.3f}<extra></extra>"
        ),
    )


def _mark(reached: int, threshold: float, label: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=[reached],
        y=[threshold],
        mode="markers",
        legendgroup=label,
        showlegend=False,
        marker={
            "symbol": "diamond",
            "size": 11,
            "color": colour,
            "line": {"width": 1.5, "color": "white"},
        },
        hovertemplate=(
            f"<b>{plain(label)}</b><br>below {threshold:.3g} nats after {reached:,} sequences"
            "<extra></extra>"
        ),
    )


def _say_time(time: int | None, end: int) -> str:
    return f"not within {end:,} sequences" if time is None else f"{time:,} sequences"


def _say_correlation(run: FormationRun) -> str:
    rho = spearman(run.strengths[-1], run.only_head[-1])
    said = "none, all are equal" if math.isnan(rho) else f"{rho:.2f}"
    return f"Spearman correlation of the heads' strength and accuracy at the end: {said}"


def _log_axis(values: Iterable[int]) -> dict[str, Any]:
    """An axis of sequences by powers of ten, as far as there are some."""
    seen = [value for value in values if value > 0] or [1]
    low, high = math.log10(min(seen)), math.log10(max(seen))
    room = 0.04 * (high - low) or 0.1
    ticks = [k * 10**power for power in range(int(low), int(high) + 1) for k in (1, 2, 5)]
    return {
        "type": "log",
        "range": [low - room, high + room],
        "tickvals": ticks,
        "tickformat": ",~s",
        "zeroline": False,
    }
