"""``icl-locate savings``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from icl_locate.cli import options
from icl_locate.cli.earlier import check_earlier, with_settings
from icl_locate.cli.loading import load_chosen_model, load_scored_task
from icl_locate.cli.start import say
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.records.files import check_output


@dataclass(frozen=True)
class SavingsConfig(options.Replacing, options.Batched, options.Shots, options.Answers):
    """What dropping the context from a layer on saves: estimated from sizes, or measured.

    Prints a row for each layer: the published formula, exact floating-point operations, cache; only
    the model's configuration is read. With --measure the model is loaded and generates; writes
    savings.safetensors, savings.csv with savings.recipe.json, savings.html and savings.png.
    """

    command: ClassVar[str] = "savings"

    reads_answers: ClassVar[bool] = True

    output: Path = Path("runs/savings")

    task: str = "pseudo-translation"
    """The task to measure on, as for `icl-locate sweep`."""

    n_queries: int = 32

    max_new_tokens: int = 50
    """New tokens of each answer; where it is measured, the most."""

    layers: tuple[int, ...] = ()
    """Layers from which to drop the context. Default: all."""

    shot_tokens: int = 50
    """Tokens of an example."""

    query_tokens: int = 50
    """Tokens of the query."""

    instruction_tokens: int = 0
    """Tokens of the instruction."""

    measure: bool = False
    """Generate answers to a task, and measure time, memory and score. The task says how long its
    prompts are."""

    repeats: int = 3
    """Runs whose times are kept."""

    @property
    def scores(self) -> bool:
        """An estimate asks the model nothing."""
        return self.measure


def run_savings(config: SavingsConfig) -> None:
    """Print what is saved from each layer on; measure it if asked to."""
    if config.measure:
        _measure(config)
    else:
        _estimate(config)


def _estimate(config: SavingsConfig) -> None:
    from icl_locate.report.tables import align_table
    from icl_locate.savings import ModelCosts, estimate_savings

    costs = ModelCosts.of(config.model, revision=config.revision)
    rows = []
    for layer in config.layers or range(costs.n_layers + 1):
        found = estimate_savings(
            costs,
            layer,
            n_shots=config.n_shots,
            shot_tokens=config.shot_tokens,
            query_tokens=config.query_tokens,
            instruction_tokens=config.instruction_tokens,
            n_new_tokens=config.max_new_tokens,
            dtype=config.dtype,
        )
        shares = found.prefill_share, found.decode_share, found.total_share, found.cache_share
        sizes = f"{found.prefill_operations[1]:.3g}", f"{found.cache_bytes[1] / 2**20:.1f} MiB"
        rows.append((str(layer), *(f"{share:.1%}" for share in (found.paper, *shares)), *sizes))
    print(f"{config.model}: saved if the context is dropped from a layer on")
    headers = (
        "from layer",
        "formula",
        "prefill",
        "decoding",
        "both",
        "cache",
        "operations",
        "cache",
    )
    print(align_table(headers, rows))
    print(
        "formula: Sia et al. 2024, (n - r)/n k/(k + 1); the others: floating-point operations and "
        "bytes,\ncounted; operations: of the prefill of one prompt"
    )


def _measure(config: SavingsConfig) -> None:
    from icl_locate import plots
    from icl_locate.report.savings import savings_rows, write_savings_report
    from icl_locate.report.tables import align_table
    from icl_locate.savings import measure_savings

    result = config.output / "savings.safetensors"
    check_output(config.output, (result.name, "savings.csv", "savings.recipe.json", "savings.html"))
    check_earlier(config, result)
    task, metric = load_scored_task(config)
    model = load_chosen_model(config, result)
    say(config, "generating with the context dropped from each layer on")
    measured = measure_savings(
        model,
        task,
        config.layers or None,
        n_shots=config.n_shots,
        n_queries=min(config.n_queries, len(task.test)),
        metric=metric,
        max_new_tokens=config.max_new_tokens,
        repeats=config.repeats,
        batch_size=config.batch_size,
    )
    measured = with_settings(measured, config)
    table = measured.to_dataframe()
    written = [measured.save(result)]
    written += write_table(table, config.output / "savings.csv", measured.provenance)
    written.append(write_savings_report(config.output / "savings.html", measured))
    problem = write_pngs({"savings": plots.savings_curves(measured)}, config.output, written)
    print(align_table(*savings_rows(measured)))
    say_written(config, written, problem)
