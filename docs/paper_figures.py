"""The paper's experiments on the embedded model: ``python docs/paper_figures.py``.

Both tasks under all six conditions with 1 to 9 shots, attention of single layers skipped, context
hidden at single layers, and how answers fail. Writes figures into a directory (docs/figures by
default), results into runs/paper, and prints what docs/experiments.md says.
"""

import sys
from pathlib import Path

import icl_locate as icl
from icl_locate.records.files import check_output
from icl_locate.report.page import write_png
from icl_locate.report.sweep import importance_table, text_table

SEEDS, N_QUERIES = (0, 1, 2), 32
TASKS = {"translation": ("pseudo-translation", "bleu", 12), "code": ("pseudo-python", "pass@1", 14)}


def main(output: Path) -> None:
    """Run everything."""
    check_output(output)
    check_output("runs/paper")
    saved = Path("runs/paper")
    model = icl.load_model(device="cpu")
    for name, (task_name, metric, max_new_tokens) in TASKS.items():
        task = icl.load_task(task_name)
        options = {
            "metric": metric,
            "n_queries": N_QUERIES,
            "seeds": SEEDS,
            "max_new_tokens": max_new_tokens,
            "progress": True,
        }
        results = icl.sweep_shots(model, task, **options)
        for n_shots, result in results.items():
            result.save(saved / f"{name}_{n_shots}.safetensors")
            print(f"\n{name}, {n_shots} shots\n{text_table(icl.locate(result))}")
        figure = icl.plots.shots_curves(results, "examples")
        write_png(figure, output / f"paper_{name}_shots.png")
        write_png(icl.plots.layer_curves(results[5]), output / f"paper_{name}_conditions.png")
        rates = icl.failure_rates(results[5])
        for failure, rate in rates.items():
            print(failure, dict(zip(results[5].conditions, rate.mean(-1).tolist(), strict=True)))
        if name == "translation":
            figure = icl.plots.failure_curves(results[5], rates)
            write_png(figure, output / "paper_translation_failures.png", height=1300)
        conditions = [*icl.SKIPPED_ATTENTION, *icl.PAPER_CONDITIONS[:2]]
        single = icl.sweep(model, task, scope="only", conditions=conditions, **options)
        print(f"\n{name}, single layers\n{importance_table(icl.layer_importance(single))}")
        write_png(icl.plots.importance_curves(single), output / f"paper_{name}_single_layers.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "figures"))
