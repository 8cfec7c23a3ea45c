"""``icl-locate circuit``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl_locate.cli import options
from icl_locate.cli.earlier import check_earlier, with_settings
from icl_locate.cli.loading import load_chosen_model
from icl_locate.cli.start import choose_metric, say
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output

Name = Literal["alignment", "labels", "probe", "forerunner", "induction", "assignment", "cuts"]
NAMES: tuple[Name, ...] = (
    "alignment", "labels", "probe", "forerunner", "induction", "assignment", "cuts",
)  # fmt: skip
"""The measures, in the order in which the circuit runs."""


@dataclass(frozen=True)
class CircuitConfig(
    options.Kept,
    options.Quiet,
    options.Replacing,
    options.Batched,
    options.Shots,
    options.Intervals,
    options.Answers,
):
    """Measure the inference circuit: text into forerunner tokens, into labels, into the answer.

    Writes into the output directory circuit.html, and for each measure NAME.safetensors, NAME.csv
    with NAME.recipe.json, and NAME.png.
    """

    command: ClassVar[str] = "circuit"

    output: Path = Path("runs/circuit")

    task: options.TaskName = "f_a_f_p/4"
    """A classification: a pattern task (repetition, recursion, centre-embedding, f_a_f_p/2,
    f_a_f_p/4, v_v_b_i/2, v_v_b_i/4), or a .csv or .jsonl file with "text" and "label"."""

    measures: tuple[Name, ...] = NAMES
    """alignment (of forerunner states with label identity), labels (of label states with those of
    the forerunner tokens a layer before), probe (class means), forerunner and induction (counts of
    heads), assignment (attention to right labels), cuts (the five disconnections)."""

    neighbours: int | None = None
    """Neighbours that alignment compares. Default: an eighth of the queries."""

    own_labels: bool = False
    """Compare label states under the task's own labels. Default: under the letters A, B, C, ...,
    which say nothing themselves."""

    n_calibration: int = 256
    """Prompts that the probe's class means are taken from."""

    windows: int | None = None
    """Cut at every window of so many layers. Default: at each quarter of the layers, and at all."""

    controls: int = 3
    """Random cuts of as many edges, beside each cut."""

    compat: Literal["cho2025"] | None = None
    """Compute as the authors' own code does where that differs."""

    metric: str | None = None
    """Of the cuts: label_accuracy, label_accuracy_contextual, label_accuracy_domain, log_prob,
    first_token_accuracy, first_token_prob or bare_label_accuracy. Default: label_accuracy."""

    n_shots: int = 4
    n_queries: int = 128
    seeds: tuple[int, ...] = (0,)

    def check(self) -> None:
        """Refuse measures that stand there twice, or none."""
        if not self.measures or len(set(self.measures)) < len(self.measures):
            raise IclLocateError(
                f"--measures is {' '.join(self.measures) or 'empty'}: expected some of "
                f"{', '.join(NAMES)}, each once"
            )


def run_circuit(config: CircuitConfig) -> None:
    """Measure, and write what was found."""
    import icl_locate as icl
    from icl_locate.report.circuit import circuit_words, draw_circuit, write_circuit_report

    paths = {name: config.output / f"{name}.safetensors" for name in config.measures}
    tables = [f"{name}{end}" for name in paths for end in (".csv", ".recipe.json", ".safetensors")]
    check_output(config.output, (*tables, "circuit.html"))
    check_earlier(config, *paths.values())
    task = icl.load_task(config.task, data=config.data)
    model = load_chosen_model(config, *paths.values())
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    written: list[Path] = []
    for name, path in paths.items():
        say(config, f"measuring {name}")
        try:
            result = with_settings(_MEASURES[name](config, model, task), config)
        except IclLocateError as error:  # what the others find is written all the same
            failed[name] = str(error)
            continue
        found[name] = result
        written.append(result.save(path))
        written += write_table(result.to_dataframe(), path.with_suffix(".csv"), result.provenance)
    said = "; ".join(f"{name}: {why}" for name, why in failed.items())
    if not found:
        raise IclLocateError(said)
    page = config.output / "circuit.html"
    written.append(write_circuit_report(page, found, confidence=config.confidence))
    figures = draw_circuit(found, confidence=config.confidence)
    problem = write_pngs(figures, config.output, written)
    for measure, lines in circuit_words(found).items():
        print(measure, *lines, sep="\n  ")
    say_written(config, written, problem)
    if failed:
        raise IclLocateError(f"some measures failed. {said}")


def _shared(config: CircuitConfig, task: Any) -> dict[str, Any]:
    """Of a file without splits half is left to calibrate the probe with."""
    from icl_locate.circuit.inputs import spared

    return {
        "n_shots": config.n_shots,
        "n_queries": spared(task, min(config.n_queries, len(task.test))),
        "seeds": config.seeds,
        "batch_size": config.batch_size,
        "progress": not config.quiet,
    }


def _differing(config: CircuitConfig, task: Any) -> dict[str, Any]:
    """The same for measures that the authors' code computes otherwise."""
    return {**_shared(config, task), "compat": config.compat}


def _alignment(config: CircuitConfig, model: Any, task: Any) -> Any:
    from icl_locate.circuit import kernel_alignment

    return kernel_alignment(model, task, k=config.neighbours, **_differing(config, task))


def _labels(config: CircuitConfig, model: Any, task: Any) -> Any:
    from icl_locate.circuit import label_alignment

    return label_alignment(
        model, task, letters=not config.own_labels, k=config.neighbours, **_differing(config, task)
    )


def _probe(config: CircuitConfig, model: Any, task: Any) -> Any:
    from icl_locate.circuit import centroid_probe

    how = _shared(config, task)
    return centroid_probe(
        model, task, presets=None, n_calibration=config.n_calibration, compat=config.compat, **how
    )


def _forerunner(config: CircuitConfig, model: Any, task: Any) -> Any:
    from icl_locate.circuit import forerunner_heads

    return forerunner_heads(model, task, **_differing(config, task))


def _induction(config: CircuitConfig, model: Any, task: Any) -> Any:
    from icl_locate.circuit import induction_heads

    return induction_heads(model, task, **_differing(config, task))


def _assignment(config: CircuitConfig, model: Any, task: Any) -> Any:
    from icl_locate.circuit import label_assignment

    return label_assignment(model, task, **_differing(config, task))


def _cuts(config: CircuitConfig, model: Any, task: Any) -> Any:
    from icl_locate.circuit import disconnect

    return disconnect(
        model,
        task,
        windows="quarters" if config.windows is None else config.windows,
        controls=config.controls,
        metric=None if config.metric is None else choose_metric(config, task),
        **_differing(config, task),
    )


_MEASURES: Mapping[str, Callable[[CircuitConfig, Any, Any], Any]] = {
    "alignment": _alignment,
    "labels": _labels,
    "probe": _probe,
    "forerunner": _forerunner,
    "induction": _induction,
    "assignment": _assignment,
    "cuts": _cuts,
}
