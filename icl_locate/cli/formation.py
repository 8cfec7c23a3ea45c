"""``icl-locate formation``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from icl_locate.cli import options
from icl_locate.cli.earlier import check_earlier, with_settings
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output

_QUICK = {"n_sequences": 40_000, "learning_rate": 2e-4, "evaluate_every": 1000}
"""Of a run that shows what each clamp is worth in a twentieth of the time."""


@dataclass(frozen=True)
class FormationConfig(options.Quiet, options.Replacing, options.Seeds, options.Output):
    """Train a small model under clamps, side by side: what must go right for induction to form?

    Writes into the output directory: formation.safetensors, formation.csv with
    formation.recipe.json, formation.html, formation_curves.png, formation_times.png,
    head_formation.png, strength_against_only_head.png, and checkpoints/. A run with the same output
    goes on where the last one ended.
    """

    command: ClassVar[str] = "formation"

    output: Path = Path("runs/formation")

    seeds: tuple[int, ...] = (0,)
    """Each draws other weights and sequences."""

    clamps: tuple[str, ...] = ()
    """What is given, a run each: labels of the paper's set, "all heads", or clamps of your own
    composition, such as match+one_head. Default: the paper's six, each with one head of layer 2
    left, and all heads with nothing given."""

    quick: bool = False
    """A higher learning rate and fewer sequences: about a minute on a free core, where the paper's
    setting takes about eight."""

    n_sequences: int | None = None
    """Sequences to train on. Default: 1,000,000; with --quick 40,000."""

    learning_rate: float | None = None
    """Of Adam. Default: 1e-5, the paper's; with --quick 2e-4."""

    evaluate_every: int | None = None
    """Sequences from one measurement to the next. Default: 5000; with --quick 1000."""

    n_classes: int = 50
    """Items that there are to train on."""

    n_labels: int = 5
    """Labels, of which each sequence has two."""

    def check(self) -> None:
        """Refuse clamps that there are not."""
        if len({*self.clamps}) < len(self.clamps):
            raise IclLocateError(f"--clamps is {' '.join(self.clamps)}: expected each once")

    @property
    def about(self) -> str:
        """What is trained."""
        return f"{self.n_classes} classes, {self.n_labels} labels"

    def setting(self) -> dict[str, Any]:
        """How each run is trained, as far as it is not the default."""
        names = ("n_sequences", "learning_rate", "evaluate_every")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**(_QUICK if self.quick else {}), **given}


def run_formation(config: FormationConfig) -> None:
    """Train under each clamp set, and write what was found."""
    from icl_locate import formation, plots
    from icl_locate.report.formation import (
        formation_table,
        formation_words,
        write_formation_report,
    )

    result = config.output / "formation.safetensors"
    names = (result.name, "formation.csv", "formation.recipe.json", "formation.html")
    check_output(config.output, names)
    check_earlier(config, result)
    study = formation.study(
        _clamps(config.clamps),
        config.seeds,
        **config.setting(),
        task=formation.FormationTask(n_classes=config.n_classes, n_labels=config.n_labels),
        checkpoint=config.output / "checkpoints",
        progress=not config.quiet,
    )
    study = with_settings(study, config)
    written = [study.save(result)]
    table = config.output / "formation.csv"
    written += write_table(study.to_dataframe(), table, study.provenance)
    written.append(write_formation_report(config.output / "formation.html", study))
    figures = {
        "formation_curves": plots.formation_curves(study),
        "formation_times": plots.formation_times(study),
    }
    for runs in study.runs.values():
        if not runs[0].clamps:
            figures["head_formation"] = plots.head_formation(runs[0])
            shown = plots.strength_against_only_head(runs[0])
            figures["strength_against_only_head"] = shown
    problem = write_pngs(figures, config.output, written)
    print(formation_table(study))
    print("", *formation_words(study), sep="\n")
    say_written(config, written, problem)


def _clamps(chosen: tuple[str, ...]) -> Mapping[str, Any]:
    """What is clamped, by label."""
    from icl_locate.formation import PAPER_CLAMPS

    known = {**PAPER_CLAMPS, "all heads": ()}
    return {name: known.get(name, tuple(name.split("+"))) for name in chosen or known}
