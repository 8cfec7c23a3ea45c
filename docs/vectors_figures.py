"""Vectors of the embedded model: ``python docs/vectors_figures.py``.

A language's task vector, function vector and in-context vectors, its vector against another's
demonstrations, and states of many positions; beside them the layer by which the language is
recognised. Writes figures into a directory (docs/figures by default), and prints what
docs/vectors.md says. Takes two minutes.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

import icl_locate as icl
from icl_locate import vectors
from icl_locate.models.bridge import Model
from icl_locate.plots.frame import METRIC_TITLES, add_caption, band, count_axis
from icl_locate.records.files import check_output
from icl_locate.report.page import write_png

TASK, OTHER = "pseudo-translation", "pseudo-translation/Zipura"
WORDS = {"metric": "token_accuracy", "max_new_tokens": 10}
SEEDS = (0, 1, 2)


def main(output: Path) -> None:
    """Run everything."""
    check_output(output)
    model = icl.load_model(device="cpu")
    task = icl.load_task(TASK)
    swept = icl.sweep(model, task, conditions="examples", n_queries=32, seeds=SEEDS, **WORDS)
    found = icl.locate(swept)[0]
    print(found)

    tv = vectors.task_vectors(model, task, other=OTHER, seeds=SEEDS, **WORDS)
    print(tv.test_table().round(3).to_string())
    print(vectors.locate_peak(tv), "| zero-shot, dev", tv.zero_shot.mean())
    for control in tv.controls:
        print("beyond", control, *tv.beyond(control).interval().round(2))
    names = {"its own vector": "task vector", "Zipura's": "other task", "random": "random"}
    figure = _figure({name: tv.curve(arm) for name, arm in names.items()}, "layer of the vector")
    figure.add_hline(y=float(tv.few_shot.mean()), line={"dash": "dot", "width": 1})
    figure.add_hline(y=float(tv.zero_shot.mean()), line={"dash": "dot", "width": 1})
    figure.add_vrect(
        x0=found.interval[0] - 0.06, x1=found.interval[1] + 0.06, fillcolor="#888888",
        opacity=0.18, line_width=0, annotation_text="recognised by",
        annotation_position="bottom left",
    )  # fmt: skip
    figure.update_layout(title="Task vectors put into prompts without context")
    add_caption(figure, "Dotted: with five examples in the prompt (top), and with nothing (bottom)")
    write_png(figure, output / "vectors_layers.png", width=620, height=520)
    first = vectors.task_vectors(model, task, seeds=SEEDS)
    print("first token:", vectors.locate_peak(first), first.test_table().round(3).to_string())
    _generate(model, task, tv)

    for metric in (WORDS, {}):
        places = {
            "all outputs": icl.At("examples", "target", shot="each"),
            "query": "query",
            "one output": icl.At("examples", "target", which="last"),
            "last token": "last",
        }
        patched = vectors.patch_states(model, task, OTHER, places=places, seeds=SEEDS, **metric)
        for arm, row in zip(patched.arms, patched.transferred, strict=True):
            print(patched.metric, arm, row.numpy().round(2))
        if metric:
            shown = ("all outputs", "all outputs: random", "query", "last token")
            figure = _figure({arm: patched.curve(arm) for arm in shown}, "layer of the states")
            figure.update_layout(title="States put into prompts with Zipura's examples")
            add_caption(figure, "Score: of the answers in the language of the states")
            write_png(figure, output / "vectors_positions.png", width=620, height=520)
    print(vectors.override_study(model, task, OTHER, n_dummies=8, seeds=SEEDS).to_dataframe())
    _heads(model, task)
    _steer(model, task)


def _generate(model: Model, task: icl.Task, tv: vectors.TaskVectors) -> None:
    bare = icl.build_prompts(
        model, task.test[:2], n_shots=0, template=task.template.without_instruction()
    )
    print(bare.targets)
    print(icl.generate(model, bare, max_new_tokens=10))
    print(icl.generate(model, bare, tv.edit(), max_new_tokens=10))


def _heads(model: Model, task: icl.Task) -> None:
    """The function vector."""
    options = {"context": "none", "n_shots": 5}
    shuffled = vectors.head_indirect_effects(model, task, n_shots=5)
    print("shuffled: ceiling, floor", shuffled.ceiling, shuffled.floor)
    effects = vectors.head_indirect_effects(model, task, **options)
    print(effects.to_dataframe().head(8).round(3).to_string(), effects.floor, effects.ceiling)
    for n_heads in (8, 16, 24):
        other = vectors.function_vector(model, OTHER, n_heads=n_heads, **options)
        fv = vectors.function_vector(model, effects, n_heads=n_heads)
        scores = fv.score(
            model, task, n_shots=5, n_queries=32, seeds=SEEDS, against={"Zipura": other}, **WORDS
        )
        print(
            n_heads,
            fv.layer,
            dict(zip(scores.arms, scores.scores.mean(-1).round(decimals=2), strict=True)),
        )
        print(vectors.locate_peak(scores.curve()), "beyond", scores.beyond("Zipura").interval()[0])


def _steer(model: Model, task: icl.Task) -> None:
    """In-context vectors."""
    icv, shuffled, other = (
        vectors.in_context_vectors(model, name, shuffled=dealt)
        for name, dealt in ((task, False), (task, True), (OTHER, False))
    )
    against = {"shuffled": shuffled, "Zipura": other}
    print(icv.score(model, task, against=against).to_dataframe().round(2).to_string())
    at = icv.score(model, task, 0.1, against=against, **WORDS)
    print(at.to_dataframe().round(2).to_string())


def _figure(curves: Mapping[str, vectors.LayerCurve], title: str) -> go.Figure:
    """Curves over the layers, with their intervals."""
    figure = go.Figure()
    for i, (name, curve) in enumerate(curves.items()):
        colour, dash = icl.plots.PALETTE[i], icl.plots.DASHES[i]
        layers, (low, high) = list(curve.layers), curve.score_interval().tolist()
        figure.add_trace(band(layers, low, high, colour, name))
        figure.add_scatter(
            x=layers, y=curve.scores.mean(dim=-1).tolist(), mode="lines+markers", name=name,
            legendgroup=name, line={"color": colour, "dash": dash},
        )  # fmt: skip
    figure.update_layout(
        template="plotly_white",
        xaxis=count_axis(title, max(layers)),
        yaxis={"title": METRIC_TITLES[curve.metric], "range": [-0.03, 1.03]},
        legend={"orientation": "h", "y": 1.12},
    )
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "figures"))
