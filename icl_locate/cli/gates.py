"""``icl-locate gates``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl_locate.cli import options
from icl_locate.cli.earlier import check_earlier, with_settings
from icl_locate.cli.first_prompt import print_first_prompt
from icl_locate.cli.loading import load_chosen_model, load_scored_task
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.records.files import check_output


@dataclass(frozen=True)
class GatesConfig(
    options.Kept, options.Quiet, options.Replacing, options.Batched, options.Shots, options.Answers
):
    """Learn a gate for each head of a frozen model: which heads can go, and which are needed?

    Writes into the output directory: gates.safetensors, gates.csv with gates.recipe.json,
    gates.html, gate_map.png, pruning_curve.png, and checkpoint.safetensors, from which an
    interrupted run goes on.
    """

    command: ClassVar[str] = "gates"

    output: Path = Path("runs/gates")

    overwrite: bool = False
    """Replace a result of another recipe in the output directory. It begins anew, without the
    checkpoint. Default: it is refused."""

    objective: Literal["prune", "break"] = "prune"
    """prune: close what can go; break: close what hurts most, and as little as possible."""

    penalty: float = 0.01
    """Weight of the expected number of gates, lambda."""

    learning_rate: float = 1e-3
    """Of Adam."""

    start: float = 2.5
    """The gates' first parameter: 2.4 and above is open."""

    max_epochs: int = 1000
    """At most so many passes over the prompts."""

    patience: int = 10
    """Epochs without improvement after which training ends."""

    instruction: bool = False
    """Whether prompts hold the task's instruction."""

    n_train: int = 200
    """Prompts to learn from."""

    n_dev: int = 64
    """Prompts to stop by."""

    n_curve: int | None = None
    """Heads that the pruning curve closes. Default: all."""

    seed: int = 0
    """Of the examples, the order of prompts, and the gates' noise."""


def run_gates(config: GatesConfig) -> None:
    """Learn gates, and write what was found."""
    from icl_locate import plots
    from icl_locate.gates import train_gates
    from icl_locate.records.checkpoint import saved_path
    from icl_locate.report.gates import write_gates_report

    how = _recipe(config)
    result, checkpoint = config.output / "gates.safetensors", config.output / "checkpoint"
    check_output(config.output, (result.name, "gates.csv", "gates.recipe.json", "gates.html"))
    check_earlier(config, result)
    task, metric = load_scored_task(config)
    if not config.quiet:
        print_first_prompt(
            task, n_shots=config.n_shots, instruction=config.instruction, seed=config.seed
        )
    model = load_chosen_model(config, result)
    if config.overwrite:
        saved_path(checkpoint).unlink(missing_ok=True)
    found = train_gates(
        model,
        task,
        how,
        n_shots=config.n_shots,
        instruction=config.instruction,
        n_train=config.n_train,
        n_dev=config.n_dev,
        n_queries=min(config.n_queries, len(task.test)),
        n_curve=config.n_curve,
        metric=metric,
        max_new_tokens=config.max_new_tokens,
        checkpoint=checkpoint,
        progress=not config.quiet,
    )
    found = with_settings(found, config)
    written = [found.save(result)]
    written += write_table(found.to_dataframe(), config.output / "gates.csv", found.provenance)
    written.append(write_gates_report(config.output / "gates.html", found))
    figures = {"gate_map": plots.gate_map(found), "pruning_curve": plots.pruning_curve(found)}
    problem = write_pngs(figures, config.output, written)
    _print_heads(found)
    say_written(config, written, problem)


def _recipe(config: GatesConfig) -> Any:
    """How gates are learnt."""
    from icl_locate.gates import GateConfig

    return GateConfig(
        objective=config.objective,
        penalty=config.penalty,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        max_epochs=config.max_epochs,
        patience=config.patience,
        start=config.start,
        seed=config.seed,
    )


def _print_heads(found: Any) -> None:
    """Which heads are needed, which can go, and what is to be doubted about it."""
    print(f"{found.metric}: {found.whole:.3g} whole, {found.pruned:.3g} with heads closed")
    for name, heads in (("needed", found.needed), ("can go", found.can_go)):
        listed = " ".join(f"{layer}.{head}" for layer, head in sorted(heads))
        print(f"{name}: {len(heads)} heads: {listed}")
    for doubt in found.doubts:
        print(f"careful: {doubt}")
