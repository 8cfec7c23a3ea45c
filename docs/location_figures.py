"""How sure layers are: ``python docs/location_figures.py``.

Draws what ``tests/benchmarks/location.py`` measured (docs/location_benchmark.json), one simulated
sweep in which noise misleads the plug-in estimate, and one of each verdict. Writes figures into a
directory (docs/figures by default), and prints the verdicts.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import icl_locate as icl
from icl_locate.plots import DASHES, PALETTE
from icl_locate.plots.frame import band
from icl_locate.records.files import check_output
from icl_locate.report.page import write_png

sys.path.append(str(Path(__file__).parents[1] / "tests"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "benchmarks"))
from location import METHODS, plug_in
from simulated import CHANCE, Simulated, result_of

HERE = Path(__file__).parent
COLOURS = dict(zip(METHODS, PALETTE, strict=False))
DEFAULT = {
    "n_items": 64, "n_seeds": 3, "ceiling": 0.7, "correlation": 0.9, "seed_level": 0.1,
    "seed_by_layer": 0.0, "metric": "exact_match",
}  # fmt: skip
SHAPES = {
    "step": "step",
    "ramp past": "ramp over 8 layers",
    "slow": "slow approach",
    "overshoot": "overshoot",
    "Llama": "Llama-3.1-8B's curve",
    "dip": "dip of .3, one layer",
    "wide dip": "dip of .25, six layers",
    "dip at the end": "dip of .3 at the end",
    "late": "rise at the end",
    "shallow dip": "dip of .15, one layer",
}
VERDICTS = {
    "recognised": Simulated(n_layers=16, layer=7),
    "never recovered": Simulated("dip at the end", n_layers=16, layer=7, n_items=128),
    "no effect": Simulated("nothing", n_layers=16, layer=7),
    "context harms": Simulated("ramp", n_layers=16, layer=9, n_items=128),
    "not resolved": Simulated(
        "ramp", n_layers=16, layer=9, n_items=16, n_seeds=2, ceiling=0.4, correlation=0
    ),
}
"""What is simulated for each; "context harms" turns the scores around."""


def main(output: Path) -> None:
    """Draw everything."""
    names = ("example", "bias", "width", "verdicts")
    check_output(output, [f"location_{name}.png" for name in names])
    rows = json.loads((HERE / "location_benchmark.json").read_text("utf-8"))["settings"].values()
    figures = example(), biases(list(rows)), widths(list(rows)), verdicts()
    heights = 400, 440, 360, 360
    for name, figure, height in zip(names, figures, heights, strict=True):
        figure.update_layout(template="plotly_white", margin={"t": 60})
        write_png(figure, output / f"location_{name}.png", width=900, height=height)


def example(seed: int = 12) -> go.Figure:
    """A sweep of 60 layers: its noise, the layer found by the plug-in and by `locate`."""
    simulated = Simulated(n_layers=60, correlation=0)
    statistics = simulated.statistics(1, seed)
    (found,) = icl.locate(result_of(statistics))
    layer, low, high = plug_in(statistics, "exact_match", 1000)[0].tolist()
    print(f"truth {simulated.truth}; plug-in {layer} [{low}, {high}]; {found}")
    scores = found.scores.numpy()
    places = list(range(len(scores)))
    truth = simulated.effect * (CHANCE / (1 - CHANCE) + simulated.recovery)
    figure = go.Figure()
    figure.add_scatter(
        x=places, y=scores, name="measured, 64 items, 3 seeds", mode="lines+markers",
        line={"color": "#888888", "width": 1}, marker={"size": 4},
    )  # fmt: skip
    figure.add_scatter(x=places, y=truth, name="in truth", line={"color": "#000000", "dash": "dot"})
    threshold = scores[0] + 0.9 * (scores[-1] - scores[0])
    figure.add_hline(
        y=threshold, line={"dash": "dash", "color": COLOURS["plug-in"], "width": 1},
        annotation={"text": "nine tenths of the way", "font": {"color": COLOURS["plug-in"]}},
        annotation_position="bottom left",
    )  # fmt: skip
    for height, (name, place, ends) in enumerate(
        (("plug-in", layer, (low, high)), ("locate", found.layer, found.interval))
    ):
        at = scores.max() * (1.07 + 0.06 * height)
        figure.add_scatter(
            x=[place], y=[at], name=f"{name}: layer {place} [{ends[0]}, {ends[1]}]",
            mode="markers", marker={"size": 11, "color": COLOURS[name], "symbol": "diamond"},
            error_x={"array": [ends[1] - place], "arrayminus": [place - ends[0]],
                     "type": "data", "symmetric": False},
        )  # fmt: skip
    figure.update_xaxes(title="context hidden from layer", zeroline=False)
    figure.update_yaxes(title="score", rangemode="tozero")
    figure.update_layout(
        title="one simulated sweep, recognised by layer 12 of 60 in truth",
        legend={"orientation": "h", "y": -0.25},
    )
    return figure


def chosen(rows: Sequence[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The settings that are the default but for what is wanted."""
    asked = {**DEFAULT, **wanted}
    return [row for row in rows if all(row[key] == value for key, value in asked.items())]


def biases(rows: Sequence[dict[str, Any]]) -> go.Figure:
    """How far off each method is, by the plateau's length, by noise, and by the curve's shape."""
    figure = make_subplots(
        cols=3, horizontal_spacing=0.08, column_widths=[0.3, 0.3, 0.4],
        subplot_titles=("the longer the plateau", "the fewer items", "by the curve's shape"),
    )  # fmt: skip
    deep = chosen(rows, shape="step", correlation=0)
    deep = sorted(deep, key=lambda row: row["n_layers"] - row["truth"])
    noisy = sorted(
        (r for r in rows if r["group"].endswith("3 of them")), key=lambda r: r["n_items"]
    )
    shaped = {row["shape"]: row for row in chosen(rows, n_layers=32) if row["layer"] in (12, 16)}
    shaped |= {r["shape"]: r for r in chosen(rows, shape="Llama", ceiling=0.42)}
    names = [name for name in SHAPES if name in shaped]
    for i, method in reversed([*enumerate(METHODS)]):  # ours on top
        marker = {"color": COLOURS[method], "symbol": i, "size": 8 if i == 0 else 10}
        panels = (
            ([row["n_layers"] - row["truth"] for row in deep], deep),
            ([row["n_items"] for row in noisy], noisy),
        )
        for column, (x, mine) in enumerate(panels, start=1):
            figure.add_scatter(
                x=x, y=[row["methods"][method]["bias"] for row in mine], name=method,
                mode="lines+markers", marker=marker,
                line={"color": COLOURS[method], "dash": DASHES[i]}, showlegend=column == 1,
                legendgroup=method, row=1, col=column,
            )  # fmt: skip
        figure.add_scatter(
            x=[shaped[name]["methods"][method]["bias"] for name in names],
            y=[SHAPES[name] for name in names], mode="markers", name=method, showlegend=False,
            legendgroup=method, marker=marker,
            row=1, col=3,
        )  # fmt: skip
    figure.update_xaxes(title="layers behind the true one", zeroline=False, row=1, col=1)
    items = [row["n_items"] for row in noisy]
    figure.update_xaxes(title="items", type="log", tickvals=items, row=1, col=2)
    figure.update_yaxes(title="bias, layers", row=1, col=1)
    figure.update_xaxes(title="bias, layers", row=1, col=3)
    figure.update_yaxes(autorange="reversed", row=1, col=3)
    figure.update_layout(
        legend={"orientation": "h", "y": -0.22, "traceorder": "reversed"},
        xaxis2_domain=[0.34, 0.56], xaxis3_domain=[0.74, 1], xaxis_domain=[0, 0.26],
    )  # fmt: skip
    for title, middle in zip(figure.layout.annotations, (0.13, 0.45, 0.87), strict=True):
        title.x = middle
    return figure


def widths(rows: Sequence[dict[str, Any]]) -> go.Figure:
    """The interval's width and coverage over items, a line for each number of seeds."""
    figure = make_subplots(
        cols=2, horizontal_spacing=0.1, subplot_titles=("width of the interval", "its coverage")
    )
    for i, n_seeds in enumerate((1, 3, 5)):
        group = f"a ramp, seeds differ: {n_seeds} of them"
        mine = sorted((r for r in rows if r["group"] == group), key=lambda r: r["n_items"])
        for column, name in enumerate(("width", "coverage"), start=1):
            figure.add_scatter(
                x=[row["n_items"] for row in mine],
                y=[row["methods"]["locate"][name] for row in mine],
                name=f"{n_seeds} seed{'s' if n_seeds > 1 else ''}", mode="lines+markers",
                line={"color": PALETTE[i], "dash": DASHES[i]}, showlegend=column == 1,
                row=1, col=column,
            )  # fmt: skip
    figure.add_hline(y=0.95, line={"dash": "dot", "color": "#888888"}, row=1, col=2)
    figure.update_xaxes(title="items", type="log", tickvals=[16, 32, 64, 128, 256])
    figure.update_yaxes(title="layers", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="share that holds the true layer", range=[0.8, 1.01], row=1, col=2)
    return figure


def verdicts() -> go.Figure:
    """One curve of each verdict, with its layer and interval."""
    figure = make_subplots(cols=5, shared_yaxes=True, subplot_titles=list(VERDICTS))
    for column, (verdict, simulated) in enumerate(VERDICTS.items(), start=1):
        statistics = simulated.statistics(1, seed=4)
        if verdict == "context harms":
            statistics[..., 0] = 1 - statistics[..., 0]
        (found,) = icl.locate(result_of(statistics))
        print(found)
        if found.verdict != verdict:
            raise SystemExit(f"the simulation for {verdict!r} is {found.verdict!r}: draw another")
        places, colour = list(found.layers), PALETTE[column - 1]
        low, high = found.score_interval.tolist()
        figure.add_trace(band(places, low, high, colour, verdict), row=1, col=column)
        figure.add_scatter(
            x=places, y=found.scores, mode="lines+markers", line={"color": colour},
            marker={"size": 4}, showlegend=False, row=1, col=column,
        )  # fmt: skip
        if found.interval is not None:
            ends = np.array(found.interval)
            figure.add_scatter(
                x=ends, y=[0.02, 0.02], mode="lines+markers", showlegend=False,
                line={"color": "#000000", "width": 4}, marker={"size": 6}, row=1, col=column,
            )  # fmt: skip
            figure.add_vline(x=found.layer, line={"dash": "dot", "width": 1}, row=1, col=column)
    figure.update_xaxes(tickvals=[0, 4, 8, 12, 16], zeroline=False)
    figure.update_xaxes(title="context hidden from layer", row=1, col=3)
    figure.update_yaxes(range=[0, 1.02], zeroline=False)
    figure.update_yaxes(title="score", row=1, col=1)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "figures"))
