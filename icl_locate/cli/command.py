"""The table of the commands, and the parser over it."""

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union

import tyro

from icl_locate import __version__
from icl_locate.cli.checkpoints import CheckpointsConfig, run_checkpoints
from icl_locate.cli.circuit import CircuitConfig, run_circuit
from icl_locate.cli.compare import CompareConfig, run_compare
from icl_locate.cli.demo import DemoConfig, run_demo
from icl_locate.cli.ending import in_words
from icl_locate.cli.formation import FormationConfig, run_formation
from icl_locate.cli.gates import GatesConfig, run_gates
from icl_locate.cli.induction import InductionConfig, run_induction
from icl_locate.cli.lora import LoraByLayerConfig, run_lora
from icl_locate.cli.savings import SavingsConfig, run_savings
from icl_locate.cli.start import start
from icl_locate.cli.sweep import SweepConfig, run_sweep
from icl_locate.cli.triangulate import TriangulateConfig, run_triangulate
from icl_locate.cli.vectors import VectorsConfig, run_vectors

COMMANDS: Mapping[str, tuple[type, Callable[[Any], None]]] = {
    "demo": (DemoConfig, run_demo),
    "sweep": (SweepConfig, run_sweep),
    "compare": (CompareConfig, run_compare),
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
        if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
            print(f"icl-locate {__version__}")
            return 0
        config = _parse(arguments)
        name = next(name for name, (kind, _) in COMMANDS.items() if kind is type(config))
        start(name, config)
        COMMANDS[name][1](config)
        return 0

    return in_words(run)


def _parse(arguments: list[str] | None) -> Any:
    """The options of the command that was named."""
    named = [Annotated[kind, tyro.conf.subcommand(name)] for name, (kind, _) in COMMANDS.items()]
    chosen: Any = Union[tuple(named)]  # noqa: UP007 - the table is known when this runs
    return tyro.cli(
        chosen,
        config=(tyro.conf.OmitArgPrefixes,),
        prog="icl-locate",
        description="Find where in a language model in-context learning happens. --version "
        "says which release this is.",
        args=arguments,
    )
