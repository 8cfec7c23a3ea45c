"""``icl-locate report``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from icl_locate.cli import options
from icl_locate.cli.writing import say_written
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output


@dataclass(frozen=True)
class ReportConfig(options.Quiet, options.Output):
    """Write the page of a run anew, or one page of several sweeps side by side.

    Of one run its page, such as report.html, as the command that made it writes it; of several
    sweeps runs.html: their curves on one axis, their layers, and paired differences. No model runs.
    """

    command: ClassVar[str] = "report"

    output: Path = Path("runs/report")

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs/demo"),)
    """Directories that commands wrote to, or files of results. Several: of sweeps."""

    confidence: float = 0.95
    """Of the intervals."""

    @property
    def about(self) -> str:
        """The runs."""
        return ", ".join(map(str, self.runs))

    def check(self) -> None:
        """Refuse no runs, and one that is given twice."""
        if not self.runs or len({*self.runs}) < len(self.runs):
            raise IclLocateError(f"the runs are {self.about or 'none'}: expected each once")


def run_report(config: ReportConfig) -> None:
    """Read the runs, and write their page."""
    from icl_locate.report.kinds import kind_of, read_run
    from icl_locate.report.runs import write_run_report

    if len(config.runs) > 1:
        page = config.output / "runs.html"
        check_output(config.output, (page.name,))
        sweeps = [_read_sweep(path) for path in config.runs]
        results = dict(zip(_names(config.runs), sweeps, strict=True))
        written = write_run_report(page, results, confidence=config.confidence)
    else:
        found = read_run(config.runs[0])
        kind = kind_of(found)
        check_output(config.output, (kind.page,))
        written = kind.write(config.output / kind.page, found, config.confidence)
    home = config.output.resolve()
    among = any(home in (path.resolve(), path.resolve().parent) for path in config.runs)
    say_written(config, [written], None, keep_config=among)


def _read_sweep(path: Path) -> Any:
    """The one sweep of a run."""
    from icl_locate.masking.result import SweepResult
    from icl_locate.report.kinds import read_run

    found = read_run(path)
    sweeps = [one for one in found.values() if isinstance(one, SweepResult)]
    if len(sweeps) != 1:
        kinds = ", ".join(type(one).__name__ for one in found.values())
        raise IclLocateError(f"{path} holds {kinds}: several runs on one page are sweeps, one each")
    return sweeps[0]


def _names(paths: Sequence[Path]) -> list[str]:
    """As much of each path's end as tells the runs apart."""
    parts = [path.resolve().parts for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(some[-n:]) for some in parts]
        if len({*names}) == len(names):
            return names
    return list(map(str, paths))
