"""The embedded model over its own training: ``python docs/checkpoints_figures.py STEPS``.

STEPS is a directory of its checkpoints: ``python -m icl_locate.training.train --output runs/emb
--keep-every 100`` leaves step00100, step00200, ... in runs/emb/steps. Step numbers behind it take
some of them only. Measures each one: the layer by which a language is recognised, every head's
induction score, accuracies with examples, with the instruction, and with neither. Writes
checkpoints_training.json and figures/checkpoints.png beside itself, and keeps results in
runs/over_training: an interrupted run goes on where it ended.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import icl_locate as icl
from icl_locate.metrics import METRICS
from icl_locate.models.bridge import Model
from icl_locate.records.files import check_output, replace_file
from icl_locate.report.checkpoints import checkpoint_tables
from icl_locate.report.page import write_png

DOCS, KEPT = Path(__file__).parent, Path("runs/over_training")
TASK = "pseudo-translation"
SETTINGS = {"5 examples": (5, False), "instruction": (0, True), "neither": (0, False)}
N_QUERIES, SEEDS, METRIC, LENGTH = 32, (0, 1), "token_accuracy", 12
N_HEADS = 5


def accuracy(model: Model) -> dict[str, float]:
    """Token accuracy of greedy answers, by what the prompt holds."""
    task, metric = icl.load_task(TASK), METRICS[METRIC]
    found = {}
    for name, (n_shots, instruction) in SETTINGS.items():
        template = task.template if instruction else task.template.without_instruction()
        prompts = icl.build_prompts(
            model, task.test[:N_QUERIES], examples=task.train, n_shots=n_shots, template=template
        )
        answers = icl.generate(model, prompts, max_new_tokens=LENGTH)
        found[name] = metric.score(metric.statistics(answers, prompts.targets).sum(axis=0))
    return found


def main(output: Path, steps: Path = Path("runs/emb/steps"), chosen: Sequence[int] = ()) -> None:
    """Measure, and write what was found."""
    check_output(output)
    check_output(KEPT)
    sweep = partial(
        icl.sweep, task=icl.load_task(TASK), conditions=["examples"], n_queries=N_QUERIES,
        seeds=SEEDS, metric=METRIC, max_new_tokens=LENGTH,
    )  # fmt: skip
    measures = {"recognition": sweep, "heads": icl.induction.head_scores, "accuracy": accuracy}
    over = icl.over_checkpoints(
        measures, steps, steps=chosen or None, output=KEPT, device="cpu",
        progress=True,
    )  # fmt: skip
    print(checkpoint_tables(over))
    text = json.dumps(summary(over), indent=1)
    print(replace_file(output / "checkpoints_training.json", [text.encode()]))
    title = "The embedded model over its training"
    figure = icl.plots.over_checkpoints(over, n_heads=N_HEADS, title=title)
    picture = output / "figures" / "checkpoints.png"
    print(write_png(figure, picture, height=int(figure.layout.height)) or picture)


def summary(over: icl.OverCheckpoints) -> dict[str, object]:
    """What the page says of each step, and how it was measured."""
    located, scores = over.locate("recognition"), over.of("heads")
    rows = []
    for step in over.steps:
        (found,), heads = located[step], scores[step].to_dataframe().head(N_HEADS)
        rows.append(
            {
                "step": step,
                "verdict": found.verdict,
                "layer": found.layer,
                "interval": found.interval,
                "scores": [round(score, 4) for score in found.scores.tolist()],
                "induction": {
                    f"{head.layer}.{head.head}": round(float(head.induction), 4)
                    for head in heads.itertuples()
                },
                "accuracy": {k: round(v, 4) for k, v in over.of("accuracy")[step].numbers.items()},
            }
        )
    kept = ("task", "n_shots", "n_queries", "seeds", "signature", "max_new_tokens", "versions")
    recipe = over.results["recognition"][0].provenance
    prints = {step: one.provenance["fingerprint"] for step, one in scores.items()}
    return {
        "recipe": {name: recipe[name] for name in kept},
        "lengths": scores[over.steps[0]].lengths,
        "fingerprints": prints,
        "steps": rows,
    }


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(DOCS, Path(sys.argv[1]), [int(step) for step in sys.argv[2:]])
