"""Heads, gates and adapters of the embedded model: ``python docs/heads_figures.py``.

Which heads read the examples; L0 gates; and one adapter for each layer and seed, tuned to a
language that the model was never taught, by the recipe of Sia et al. at a learning rate that suits
a small model. Writes figures into a directory (docs/figures by default), adapters and results into
runs, and prints what docs/heads.md says. An interrupted run goes on where it ended.
"""

import sys
from dataclasses import replace
from pathlib import Path

import icl_locate as icl
from icl_locate.gates import GateConfig, train_gates
from icl_locate.lora import PRESETS, lora_by_layer
from icl_locate.records.files import check_output
from icl_locate.report.page import write_png


def main(output: Path) -> None:
    """Run everything."""
    check_output(output)
    check_output("runs/lora")
    model = icl.load_model(device="cpu")
    known = icl.load_task("pseudo-translation")
    swept = icl.sweep(
        model, known, conditions="examples", n_queries=64, seeds=(0, 1), max_new_tokens=12
    )
    found = icl.locate(swept)[0]
    print(found)
    study = icl.HeadStudy(model, known, "examples", n_queries=64, seeds=(0, 1))
    hidden = study.sweep("hidden")
    print(hidden.to_dataframe().head(8).to_string())
    print("share below", found.layer, hidden.share_below(found.layer or 0))
    figure = icl.plots.head_map(
        hidden.worth, title="nats lost: examples hidden from a head", boundary=found.layer
    )
    write_png(figure, output / "context_heads.png", width=620, height=520)
    curves = study.nested(hidden.best(40)), study.greedy(6, candidates=hidden.best(12))
    write_png(icl.plots.head_set_curves(*curves), output / "context_head_sets.png")
    print("nested", curves[0].scores.mean(-1))
    print("greedy", curves[1].heads.heads, curves[1].scores.mean(-1), curves[1].ceiling)

    task = icl.load_task("pseudo-translation/Novel")
    config = replace(PRESETS["sia2024"], learning_rate=3e-3, n_dev=112)
    tuned = lora_by_layer(
        None, task, Path("runs/lora"), config, seeds=(0, 1), max_new_tokens=12, device="cpu",
        progress=True,
    )  # fmt: skip
    tuned.save(Path("runs/lora/result"))
    print(tuned.to_dataframe().to_string())
    print("untuned", tuned.untuned, "rank correlation", tuned.rank_correlation(swept))
    write_png(icl.plots.lora_curves(tuned, swept), output / "lora_layers.png")

    for objective, penalty, start in (("prune", 0.01, 2.5), ("break", 0.05, 0.0)):
        gates = train_gates(
            model,
            known,
            GateConfig(objective, penalty, 0.1, max_epochs=150, patience=150, start=start),
            n_train=96,
            n_dev=32,
            max_new_tokens=12,
            checkpoint=Path(f"runs/gates_{objective}"),
            progress=True,
        )
        gates.save(Path(f"runs/gates_{objective}_result"))
        print(objective, sorted(gates.closed), gates.whole, gates.pruned, gates.n_epochs)
        write_png(icl.plots.gate_map(gates), output / f"gates_{objective}.png", width=560)
        write_png(icl.plots.pruning_curve(gates), output / f"gates_{objective}_curve.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "figures"))
