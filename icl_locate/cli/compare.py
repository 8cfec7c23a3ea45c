"""``icl-locate compare``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from icl_locate.cli import options
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output

_WRITTEN = ("differences.csv", "differences.recipe.json", "differences.html")


@dataclass(frozen=True)
class CompareConfig(options.Quiet, options.Output):
    """Say whether a task is recognised at a later layer in one sweep than in another.

    Of one sweep, its conditions are compared with one another. Writes into the output directory:
    differences.csv with differences.recipe.json, differences.html and layer_differences.png.
    """

    command: ClassVar[str] = "compare"

    output: Path = Path("runs/compare")

    sweeps: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs/sweep"),)
    """Directories that one sweep or two were written to, or their result.safetensors."""

    conditions: tuple[str, ...] = ()
    """Conditions to compare: of two sweeps, those that both have; of one, two or more. Default:
    all."""

    threshold: float = 0.9
    """Share of what the context is worth that counts as recovered."""

    confidence: float = 0.95
    """Of the intervals."""

    @property
    def about(self) -> str:
        """The sweeps."""
        return " against ".join(map(str, self.sweeps))

    def check(self) -> None:
        """Refuse more than two sweeps."""
        if len(self.sweeps) not in (1, 2):
            raise IclLocateError(f"there are {len(self.sweeps)} sweeps: expected one or two")


def run_compare(config: CompareConfig) -> None:
    """Compare, say what came of it, and write it."""
    import icl_locate as icl
    from icl_locate import plots
    from icl_locate.report.differences import write_differences

    check_output(config.output, _WRITTEN)
    found = icl.compare(
        *(icl.SweepResult.load(_file(path)) for path in config.sweeps),
        conditions=config.conditions or None,
        threshold=config.threshold,
        confidence=config.confidence,
    )
    print(*found, sep="\n")
    recipe = dict(zip(("first", "second"), map(dict, found[0].recipes), strict=True))
    written = write_table(_table(found), config.output / "differences.csv", recipe)
    written.append(write_differences(config.output / "differences.html", found))
    figures = {"layer_differences": plots.layer_differences(found)}
    say_written(config, written, write_pngs(figures, config.output, written))


def _file(path: Path) -> Path:
    """The result in a sweep's directory."""
    return path / "result.safetensors" if path.is_dir() else path


def _table(differences: list[Any]) -> Any:
    """One row a difference."""
    import pandas as pd

    nothing = (None, None)
    rows = [
        (
            *(*each.names, *(side.layer for side in each.locations), each.verdict, each.paired),
            *(each.layer, *(each.interval or nothing)),
            *(each.depth, *(each.depth_interval or nothing)),
            *each.effect,
        )
        for each in differences
    ]
    columns = ["first", "second", "first_layer", "second_layer", "verdict", "shared"]
    measured = ("layers", "depth", "effect")
    columns += [f"{name}{end}" for name in measured for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=columns).convert_dtypes()
