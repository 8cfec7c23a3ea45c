"""Writes the results beside it: pairs of files of the first format, as its own code wrote them.

The format had two files, ``NAME.safetensors`` and ``NAME.json``; the last version that wrote it is
commit eac54e6. This script runs with that version's code, never with the present one:

    git worktree add OLD eac54e6
    PYTHONPATH=OLD:OLD/tests python tests/former/write.py

Times, and the versions in the recipes, are of whoever runs it. Sizes are as small as can be.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tiny

import icl_locate as icl
from icl_locate.context_heads import HeadStudy
from icl_locate.gates import GateConfig, train_gates
from icl_locate.induction import ablation_study, head_reference
from icl_locate.lora import LoraConfig, lora_by_layer
from icl_locate.savings import measure_savings

HERE = Path(__file__).parent
SIZES = {"n_shots": 1, "n_queries": 3, "max_new_tokens": 3}


def longest(answer: str, target: str) -> float:
    """A metric of one's own."""
    return float(max(len(answer), len(target)))


def small_task() -> Any:
    """A few sentences of a task that comes with the package; one of them not in ASCII."""
    full = icl.load_task("pseudo-translation")
    return replace(full, train=full.train[:4], test=full.test[:3], metric="chrf")


def sweeps(model: Any, task: Any) -> dict[str, Any]:
    """One for each kind of metric: counts, means, log-probabilities, one's own."""
    able, five = icl.load_model(), icl.load_task("pseudo-translation")
    options = {**SIZES, "conditions": "examples", "seeds": 0}
    return {
        "sweep": icl.sweep(
            able, five, n_queries=3, seeds=(0, 1), metric="bleu", conditions="examples"
        ),
        "sweep_match": icl.sweep(
            able, five, n_queries=3, seeds=0, metric="exact_match", conditions=("examples", "query")
        ),
        "sweep_log_prob": icl.sweep(model, task, **options, metric="log_prob"),
        "sweep_custom": icl.sweep(model, task, **options, metric=longest, scope="only"),
    }


def others(model: Any, task: Any, directory: Path) -> dict[str, Any]:
    """One of every other kind."""
    config = LoraConfig(rank=1, max_epochs=1, n_train=2, n_dev=1, batch_size=2)
    gates = GateConfig(max_epochs=1, batch_size=2)
    return {
        "heads": HeadStudy(model, task, seeds=(0, 1), metric="log_prob", **SIZES).sweep("kept"),
        "ablation": ablation_study(
            model, task, {(0, 0), (1, 1)}, 2, fractions=(0.2, 0.4), shots=(1, 2), seeds=(0, 1),
            interventions=("zero",), n_queries=3, max_new_tokens=2,
        ),
        "reference": head_reference(model, n_texts=3, length=2, n_samples=2),
        "gates": train_gates(model, task, gates, n_train=2, n_dev=1, n_curve=2, **SIZES),
        "lora": lora_by_layer(
            tiny.save(tiny.build("llama"), directory / "model"), task, directory / "lora", config,
            layers=(0, 2), seeds=(0, 1), n_queries=3, max_new_tokens=2,
        ),
        "savings": measure_savings(model, task, (0, 2), repeats=2, **SIZES),
    }  # fmt: skip


def main() -> None:
    """Write them all."""
    model, task = tiny.boot("llama"), small_task()
    with TemporaryDirectory() as directory:
        made = sweeps(model, task) | others(model, task, Path(directory))
    for name, result in made.items():
        model = result.provenance["model"]
        named = "a-tiny-llama" if "/" in model else model  # it has no name but a path
        replace(result, provenance={**result.provenance, "model": named}).save(HERE / name)


if __name__ == "__main__":
    main()
