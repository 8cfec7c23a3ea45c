"""Induction heads of two models: ``python docs/induction_figures.py``.

The embedded model, which labels patterns with them and translates without them, and the planted
circuit of the tests, which knows nothing else. Writes figures into a directory (docs/figures by
default) and prints what docs/induction.md says.
"""

import sys
from dataclasses import replace
from pathlib import Path

import icl_locate as icl
from icl_locate import induction, plots
from icl_locate.records.files import check_output
from icl_locate.report.heads import comparison_table, head_table
from icl_locate.report.page import write_png

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import planted_induction as planted

FRACTIONS = (0.05, 0.15)  # of the embedded model's heads: two, and six
DRAWN = "f_a_f_p/4"
PATTERNS = ("repetition", DRAWN, "v_v_b_i/4")


def main(output: Path) -> None:
    """Run everything."""
    check_output(output)
    circuit = planted.boot()
    scores = induction.head_scores(circuit)
    effects = induction.head_effects(circuit, induction.repeated_prompts(circuit))
    result = induction.ablation_study(
        circuit, planted.TASK, scores.induction, fractions=(0.1, 0.2), shots=(4,), n_queries=40
    )
    show("the planted circuit", scores, effects, result)
    draw("planted", output, scores, result)

    model, task = icl.load_model(device="cpu"), icl.load_task("pseudo-translation")
    scores = induction.head_scores(model)
    shape = scores.induction.shape
    for name, instruction, n_shots in (("examples", False, 5), ("instruction", True, 0)):
        prompts = icl.build_prompts(
            model, task.test[:64], examples=task.train, n_shots=n_shots,
            template=task.template_for(instruction=instruction),
        )  # fmt: skip
        effects = induction.head_effects(model, prompts)
        print(f"\n{name} alone\n{effects.to_dataframe().nlargest(8, 'loss').to_string()}")
        title = f"nats lost without a head: {name} alone"
        figure = plots.head_map(effects.mean.view(shape), title=title, limit=5.0)
        write_png(figure, output / f"induction_effects_{name}.png", width=560, height=520)
        if n_shots:
            shown = effects
    bare = replace(task, template=task.template_for(instruction=False))
    result = induction.ablation_study(
        model, bare, scores.induction, fractions=FRACTIONS, shots=(5,), max_new_tokens=12
    )
    show("the embedded model", scores, shown, result)
    for name in PATTERNS:
        result = induction.ablation_study(
            model, name, scores.induction, controls=19, fractions=FRACTIONS, shots=(10,)
        )
        show("the embedded model", scores, None, result)
        if name == DRAWN:
            draw("embedded", output, scores, result)


def show(
    name: str,
    scores: induction.HeadScores,
    effects: induction.HeadEffects | None,
    result: induction.AblationResult,
) -> None:
    """Print the tables of one model and task."""
    print(f"\n{name}, {result.provenance['task']}")
    print(f"{head_table(scores.to_dataframe(effects).head(8))}\n")
    print(comparison_table(result.compare(), result.metric))


def draw(
    name: str, output: Path, scores: induction.HeadScores, result: induction.AblationResult
) -> None:
    """Draw the figures of one model."""
    chosen = max((arm.heads for arm in result.arms if arm.kind == "induction"), key=len)
    map_of_heads = plots.head_map(scores, title=f"induction score: {name}", marked=chosen)
    write_png(map_of_heads, output / f"induction_{name}_map.png", width=560, height=520)
    bars = plots.ablation_bars(result, result.compare())
    bars.update_layout(title=f"{name} model, {result.provenance['task']}")
    write_png(bars, output / f"induction_{name}_bars.png", width=900, height=560)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "figures"))
