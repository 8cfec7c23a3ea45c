"""Several methods on the embedded model: ``python docs/witnesses_figures.py``.

Where a task of classes and one of sentences are done, by every method, on one axis; what each
method asks of a task, found out by offering it five; what each costs. Writes witnesses_table.md and
figures/witnesses.png into a directory (docs by default), and prints what docs/witnesses.md says.
Takes four minutes.
"""

import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import icl_locate as icl
from icl_locate.agreement import METHODS, Asked, Witness
from icl_locate.errors import IclLocateError
from icl_locate.lora import LoraConfig, lora_by_layer
from icl_locate.models.bridge import Model
from icl_locate.records.files import check_output, replace_file
from icl_locate.report.page import write_png
from icl_locate.studies.setting import Setting

CLASSES, WORDS, OTHER = "f_a_f_p/4", "pseudo-translation", "pseudo-translation/Zipura"
N_SHOTS = 8
SENTENCES = {"metric": "token_accuracy", "max_new_tokens": 10}
LORA = LoraConfig(learning_rate=1e-2, n_train=200, n_dev=50, max_epochs=25)
"""The paper's recipe, but for a rate that suits a small model, and half of the pairs."""
TABLE, FIGURE = "witnesses_table.md", "figures/witnesses.png"


def main(output: Path) -> None:
    """Run everything."""
    check_output(output, (TABLE,))
    check_output(output / "figures")
    model = icl.load_model(device="cpu")
    with tempfile.TemporaryDirectory() as adapters:
        served = _serve(model, adapters)
        agreed = icl.triangulate(model, CLASSES, n_shots=N_SHOTS)
        _say(agreed)
        lora = {"model": "embedded", "output": adapters, "config": LORA}
        every = icl.triangulate(
            model, CLASSES, list(METHODS), n_shots=N_SHOTS, max_new_tokens=4, lora=lora
        )
        longer = lora_by_layer(
            "embedded", CLASSES, Path(adapters) / "longer", replace(LORA, max_epochs=40),
            layers=[9], seeds=(0, 1, 2), n_queries=32, metric="exact_match", max_new_tokens=4,
        )  # fmt: skip
    print("layer 9, 40 epochs:", longer.scores.mean(), longer.n_epochs.tolist())
    _say(every)
    print("epochs", every.results["lora"].n_epochs.tolist())
    figure = icl.plots.agreement(agreed)
    write_png(figure, output / FIGURE, width=760, height=figure.layout.height)
    replace_file(output / TABLE, [f"{served}\n{_costs(every.witnesses)}".encode()])
    print((output / TABLE).read_text("utf-8"))

    heads = {"function_vector": {"n_heads": 24}}
    _say(icl.triangulate(model, WORDS, **SENTENCES, **heads))
    _say(icl.triangulate(model, WORDS, "function_vector", **SENTENCES))
    shown = {"many_positions": {"other": OTHER}}
    _say(icl.triangulate(model, WORDS, "many_positions", **SENTENCES, **shown))


def _say(agreed: icl.Agreement) -> None:
    """What was found, and the curves."""
    print(agreed.summary)
    print(agreed.to_dataframe("difference").to_string())
    for one in agreed.witnesses:
        print(one.method, one.layers[0], [round(x, 2) for x in one.scores.tolist()], end=" ")
        print("beside", round(one.reference, 2), f"{one.seconds:.2f} s", flush=True)


def _tasks(model: Model) -> Mapping[str, tuple[icl.Task, str]]:
    """Tasks that ask different things of a method, and their metrics."""
    classes, words = icl.load_task(CLASSES), icl.load_task(WORDS)
    behind = replace(classes, template=replace(classes.template, target_prefix=" "))
    prompts = icl.build_prompts(
        model, words.test[:8], examples=words.train, n_shots=4, template=words.template
    )
    return {
        "classes, `label_accuracy`": (classes, "label_accuracy"),
        "sentences, `token_accuracy`": (words, "token_accuracy"),
        "sentences, `log_prob`": (words, "log_prob"),
        "prompts of one's own, `log_prob`": (icl.Task.from_prompts(prompts), "log_prob"),
        "classes, no forerunner token, `label_accuracy`": (behind, "label_accuracy"),
    }


def _serve(model: Model, adapters: str) -> str:
    """A table of what each method says to each task: served, or refused, and why."""
    tasks, reasons, rows = _tasks(model), list[str](), []
    own = {"lora": {"model": "embedded", "output": adapters, "config": LORA}}
    for name, method in METHODS.items():
        cells = []
        for task, metric in tasks.values():
            setting = Setting.of(task, metric=metric, n_queries=8, n_shots=4, max_new_tokens=10)
            asked = Asked(setting, metric, "auto", 64, None, False, own=own.get(name, {}))
            try:
                method.check(model, asked)
                cells.append("yes")
            except IclLocateError as error:
                said = textwrap.shorten(str(error), 160, placeholder=" ...")
                reasons += [said] * (said not in reasons)
                cells.append(f"no ({reasons.index(said) + 1})")
        rows.append([f"`{name}`", *cells])
    lines = [*_lines(["method", *tasks], rows), ""]
    lines += [f"{number}. {said}" for number, said in enumerate(reasons, start=1)]
    return "\n".join([*lines, ""])


def _costs(witnesses: Sequence[Witness]) -> str:
    """A table of what each method said and took."""
    once = witnesses[0].seconds
    rows = [
        [
            f"`{one.method}`", one.kind, "yes" if METHODS[one.method].by_name else "no",
            one.label, f"{one.seconds:.2f}", f"{one.seconds / once:.1f}", str(one.n_prompts),
        ]
        for one in witnesses
    ]  # fmt: skip
    headers = "method", "curve", "trains", "says", "seconds", "times masking", "prompts"
    return "\n".join([*_lines(list(headers), rows), ""])


def _lines(headers: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---"] * len(headers)
    return ["| " + " | ".join(row) + " |" for row in (headers, rule, *rows)]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
