"""The table of the commands, and the parser over it."""

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from icl_locate import __version__
from icl_locate.cli.checkpoints import CheckpointsConfig, run_checkpoints
from icl_locate.cli.circuit import CircuitConfig, run_circuit
from icl_locate.cli.compare import CompareConfig, run_compare
from icl_locate.cli.config_file import (
    ConfigFile,
    changed_files,
    open_modules,
    options_of,
    read_config_file,
)
from icl_locate.cli.demo import DemoConfig, run_demo
from icl_locate.cli.earlier import settings_of
from icl_locate.cli.ending import in_words
from icl_locate.cli.formation import FormationConfig, run_formation
from icl_locate.cli.gates import GatesConfig, run_gates
from icl_locate.cli.induction import InductionConfig, run_induction
from icl_locate.cli.lora import LoraByLayerConfig, run_lora
from icl_locate.cli.options import Kept
from icl_locate.cli.report import ReportConfig, run_report
from icl_locate.cli.runs import RUNS, RUNS_COMMANDS
from icl_locate.cli.savings import SavingsConfig, run_savings
from icl_locate.cli.start import start
from icl_locate.cli.sweep import SweepConfig, run_sweep
from icl_locate.cli.triangulate import TriangulateConfig, run_triangulate
from icl_locate.cli.vectors import VectorsConfig, run_vectors
from icl_locate.errors import IclLocateError

COMMANDS: Mapping[str, tuple[type, Callable[[Any], None]]] = {
    "demo": (DemoConfig, run_demo),
    "sweep": (SweepConfig, run_sweep),
    "compare": (CompareConfig, run_compare),
    "report": (ReportConfig, run_report),
    "induction": (InductionConfig, run_induction),
    "checkpoints": (CheckpointsConfig, run_checkpoints),
    "savings": (SavingsConfig, run_savings),
    "gates": (GatesConfig, run_gates),
    "lora": (LoraByLayerConfig, run_lora),
    "vectors": (VectorsConfig, run_vectors),
    "circuit": (CircuitConfig, run_circuit),
    "triangulate": (TriangulateConfig, run_triangulate),
    "formation": (FormationConfig, run_formation),
}
"""By its name, what a command takes and what it does."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run a command; returns the exit status."""

    def run() -> int:
        given = sys.argv[1:] if arguments is None else arguments
        if given == ["--version"]:
            print(f"icl-locate {__version__}")
            return 0
        config = _parse(given)
        if type(config) in RUNS:
            return RUNS[type(config)](config)
        start(config)
        for file in changed_files(config):
            print(f"careful: {file} has changed since {config.config} was written", file=sys.stderr)
        with _kept(config):
            COMMANDS[config.command][1](config)
        return 0

    return in_words(run)


def _kept(config: Any) -> AbstractContextManager[None]:
    """Where all that a command runs is kept, and who runs it."""
    runs = isinstance(config, Kept) and not getattr(config, "dry_run", False)
    if not runs or (config.store is None and config.ray is None):
        return nullcontext()
    from icl_locate.studies.place import using

    return using(config.store, config.executor, study=config.command, settings=settings_of(config))


def _parse(given: list[str]) -> Any:
    """The options of the command that was named."""
    found = _find_config(given)
    if found is not None and found.command not in COMMANDS:
        raise IclLocateError(
            f"--config {found.path} is of the command {found.command!r}: expected one of "
            f"{', '.join(COMMANDS)}"
        )
    if found is not None and given[0].startswith("-"):
        given = [found.command, *given]
    named: list[Any] = []
    for name, (kind, _) in COMMANDS.items():
        if found is not None and name == given[0]:
            how = tyro.conf.subcommand(name, default=options_of(found, kind))
            open_modules(found)
        else:
            how = tyro.conf.subcommand(name)
        named.append(Annotated[kind, how])
    chosen: Any = Union[(*named, RUNS_COMMANDS)]
    return tyro.cli(
        chosen,
        config=(tyro.conf.OmitArgPrefixes,),
        prog="icl-locate",
        description="Find where in a language model in-context learning happens. --version "
        "says which release this is.",
        args=given,
    )


def _find_config(given: list[str]) -> ConfigFile | None:
    """The file of ``--config``, which is read before the rest: it says what defaults are."""
    for i, word in enumerate(given):
        option, equals, value = word.partition("=")
        if option == "--config" and (equals or given[i + 1 :]):
            return read_config_file(Path(value if equals else given[i + 1]))
    return None
