"""``icl-locate checkpoints``."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl_locate.cli import options
from icl_locate.cli.loading import load_scored_task
from icl_locate.cli.start import say
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output


@dataclass(frozen=True)
class CheckpointsConfig(
    options.Quiet,
    options.Kept,
    options.Batched,
    options.Intervals,
    options.Shots,
    options.Answers,
):
    """Sweep every checkpoint of a training and score its heads: what arises when, and where.

    Writes into the output directory: step1000/curves.safetensors and step1000/heads.safetensors for
    each step, as they are made (run it again to go on), recognition.csv and heads.csv with their
    recipes, over_checkpoints.png and checkpoints.html.
    """

    command: ClassVar[str] = "checkpoints"

    output: Path = Path("runs/checkpoints")

    model: str = "training"
    """A directory whose sub-directories are checkpoints (step1000, checkpoint-500), or with
    --revisions a name on the Hugging Face Hub."""

    revision: str | None = None
    """Not taken here: give --revisions."""

    revisions: tuple[str, ...] = ()
    """Revisions of a name on the Hub, such as step1000 step2000."""

    steps: tuple[int, ...] = ()
    """Some of a directory's steps. Default: all. With --revisions: the step of each. Default: as
    their names tell."""

    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    """Not taken here: a checkpoint is on one device."""

    n_queries: int = 32

    conditions: tuple[str, ...] = ("examples",)
    """What to hide, as for `icl-locate sweep`; the first is drawn."""

    def check(self) -> None:
        """Refuse conditions that there are not."""
        from icl_locate.interventions.conditions import get_condition

        if self.revision is not None:
            raise IclLocateError(f"--revision is {self.revision!r}: expected --revisions, several")
        if self.device_map is not None:
            raise IclLocateError(f"--device-map is {self.device_map!r}: expected --device")
        for condition in self.conditions:
            get_condition(condition)

    def find(self) -> None:
        """Refuse checkpoints that are not there."""
        from icl_locate.models.names import find_model
        from icl_locate.models.steps import checkpoints_in, require_step

        if not self.revisions and not Path(self.model).is_dir():
            raise IclLocateError(
                f"--model is {self.model!r}: expected a directory of checkpoints (there is none of "
                "that name), or a name on the Hub with --revisions"
            )
        if not self.revisions:
            checkpoints_in(Path(self.model))
        for revision in self.revisions:
            if not self.steps:
                require_step(revision, f"--revisions {revision!r}")
            find_model(self.model, revision)


def run_checkpoints(config: CheckpointsConfig) -> None:
    """Measure all checkpoints, and write what was found."""
    import icl_locate as icl

    check_output(config.output, ("recognition.csv", "heads.csv", "checkpoints.html"))
    task, metric = load_scored_task(config)
    models: Any = [f"{config.model}@{revision}" for revision in config.revisions] or config.model
    sweep: Any = partial(
        icl.sweep,
        task=task,
        conditions=list(config.conditions),
        n_shots=config.n_shots,
        n_queries=min(config.n_queries, len(task.test)),
        seeds=list(config.seeds),
        metric=metric,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
    )
    say(config, f"measuring the checkpoints of {config.model}")
    result = icl.over_checkpoints(
        {"curves": sweep, "heads": icl.induction.head_scores},
        models,
        steps=config.steps or None,
        output=config.output,
        device=config.device,
        dtype=config.dtype,
        progress=not config.quiet,
    )
    _write(config, result)


def _write(config: CheckpointsConfig, result: Any) -> None:
    from icl_locate import plots
    from icl_locate.report.checkpoints import (
        checkpoint_tables,
        location_frame,
        write_checkpoint_report,
    )

    output, confidence = config.output, config.confidence
    written: list[Path] = [output / f"step{step}" for step in result.steps]
    labels = {str(step): label for step, label in zip(result.steps, result.labels, strict=True)}
    tables = {
        "recognition": (location_frame(result, confidence=confidence), "curves"),
        "heads": (result.to_dataframe("heads"), "heads"),
    }
    for name, (table, measure) in tables.items():
        recipe = {"checkpoints": labels, **result.results[measure][0].provenance}
        written += write_table(table, output / f"{name}.csv", recipe)
    page = output / "checkpoints.html"
    written.append(write_checkpoint_report(page, result, confidence=confidence))
    figure = plots.over_checkpoints(result, confidence=confidence)
    problem = write_pngs({"over_checkpoints": figure}, output, written)
    print(checkpoint_tables(result, confidence=confidence))
    say_written(config, written, problem)
