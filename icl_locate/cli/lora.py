"""``icl-locate lora``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl_locate.cli import options
from icl_locate.cli.earlier import with_settings
from icl_locate.cli.first_prompt import print_first_prompt
from icl_locate.cli.loading import load_scored_task
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output


@dataclass(frozen=True)
class LoraByLayerConfig(
    options.Kept, options.Quiet, options.Output, options.Model, options.Answers
):
    """Tune one layer at a time to a task by LoRA, and score each tuned model.

    Writes into the output directory: an adapter for each layer and seed as peft writes them,
    lora.safetensors, lora.csv with lora.recipe.json, lora.html and lora_layers.png. A run with
    the same output goes on where the last one ended; another training's checkpoints are refused.
    """

    command: ClassVar[str] = "lora"

    reads_answers: ClassVar[bool] = True

    output: Path = Path("runs/lora")

    task: options.TaskName = "pseudo-translation/Novel"
    """Any task that `icl-locate sweep` takes. Default: a language that the embedded model was never
    taught."""

    preset: Literal["sia2024", "sia2024-v1"] = "sia2024"
    """The recipe; what is given beside it goes before."""

    learning_rate: float | None = None
    """Of AdamW. Default: the preset's."""

    max_epochs: int | None = None
    """At most so many passes over the pairs. Default: the preset's."""

    n_train: int | None = None
    """Pairs to learn from. Default: the preset's."""

    n_dev: int | None = None
    """Pairs to stop by. Default: the preset's, or as many as the task has left."""

    loss: Literal["target", "sequence"] = "target"
    """What is learnt: the target and its end, or the source as well."""

    layers: tuple[int, ...] = ()
    """Layers to tune. Default: all."""

    seeds: tuple[int, ...] = (0, 1)
    """Each initialises adapters and orders pairs anew."""

    sweep: Path | None = None
    """A result.safetensors of `icl-locate sweep`, whose curve is drawn beside."""

    condition: str | None = None
    """Which curve of it. Default: the first."""


def run_lora(config: LoraByLayerConfig) -> None:
    """Tune layer by layer, and write what was found."""
    from icl_locate import plots
    from icl_locate.lora import lora_by_layer
    from icl_locate.report.lora import write_lora_report

    check_output(config.output, ("lora.safetensors", "lora.csv", "lora.recipe.json", "lora.html"))
    task, metric = load_scored_task(config)
    swept = _read_sweep(config)
    how = _recipe(config, task)
    if not config.quiet:
        print_first_prompt(task, n_shots=0, instruction=False)
    found = lora_by_layer(
        config.model,
        task,
        config.output,
        how,
        layers=config.layers or None,
        seeds=config.seeds,
        n_queries=min(config.n_queries, len(task.test)),
        metric=metric,
        max_new_tokens=config.max_new_tokens,
        device=config.device,
        dtype=config.dtype,
        revision=config.revision,
        progress=not config.quiet,
    )
    found = with_settings(found, config)
    written = [found.save(config.output / "lora")]
    written += write_table(found.to_dataframe(), config.output / "lora.csv", found.provenance)
    page = config.output / "lora.html"
    written.append(write_lora_report(page, found, swept, config.condition))
    figure = plots.lora_curves(found, swept, config.condition)
    problem = write_pngs({"lora_layers": figure}, config.output, written)
    _print_layers(found, swept, config.condition)
    say_written(config, written, problem)


def _read_sweep(config: LoraByLayerConfig) -> Any:
    """The sweep whose curve is drawn beside, if there is to be one."""
    import icl_locate as icl

    if config.sweep is None:
        return None
    swept = icl.SweepResult.load(config.sweep)
    if (config.condition or swept.conditions[0]) not in swept.conditions:
        raise IclLocateError(
            f"--condition is {config.condition!r}: the sweep has {', '.join(swept.conditions)}"
        )
    return swept


def _recipe(config: LoraByLayerConfig, task: Any) -> Any:
    """The preset, with what was given beside it."""
    from icl_locate.lora import PRESETS

    names = ("learning_rate", "max_epochs", "n_train", "n_dev")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    how = replace(PRESETS[config.preset], loss=config.loss, **given)
    asked = {query.source for query in task.queries(min(config.n_queries, len(task.test)))}
    left = sum(pair.source not in asked for pair in task.train) - how.n_train
    if config.n_dev is None and 0 < left < how.n_dev:
        how = replace(how, n_dev=left)  # a small task: what is left to stop by
    return how


def _print_layers(found: Any, swept: Any, condition: str | None) -> None:
    """A row for each tuned layer, and how the order of the layers agrees with the sweep's."""
    from icl_locate.report.lora import lora_rows
    from icl_locate.report.tables import align_table

    print(f"untuned: {found.metric} {found.untuned:.3g}")
    print(align_table(*lora_rows(found)))
    if swept is not None:
        rho, less, more = found.rank_correlation(swept, condition)
        print(f"rank correlation with the masking curve: {rho:.2f} [{less:.2f}, {more:.2f}]")
