"""The command line: ``icl-locate`` demo, sweep, induction, savings, gates and lora."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import tyro

from icl_locate import __version__
from icl_locate.cli.configs import DemoConfig, InductionConfig, SweepConfig
from icl_locate.cli.demo import run_demo
from icl_locate.cli.ending import in_words
from icl_locate.cli.induction import run_induction
from icl_locate.cli.savings import run_savings
from icl_locate.cli.savings_configs import SavingsConfig
from icl_locate.cli.start import start
from icl_locate.cli.sweep import run_sweep
from icl_locate.cli.train import run_gates, run_lora
from icl_locate.cli.train_configs import GatesConfig, LoraByLayerConfig

__all__ = [
    "DemoConfig",
    "GatesConfig",
    "InductionConfig",
    "LoraByLayerConfig",
    "SavingsConfig",
    "SweepConfig",
    "main",
]

Command = (
    Annotated[DemoConfig, tyro.conf.subcommand("demo")]
    | Annotated[SweepConfig, tyro.conf.subcommand("sweep")]
    | Annotated[InductionConfig, tyro.conf.subcommand("induction")]
    | Annotated[SavingsConfig, tyro.conf.subcommand("savings")]
    | Annotated[GatesConfig, tyro.conf.subcommand("gates")]
    | Annotated[LoraByLayerConfig, tyro.conf.subcommand("lora")]
)
_RUN: dict[type, Callable[[Any], None]] = {
    DemoConfig: run_demo,
    SweepConfig: run_sweep,
    InductionConfig: run_induction,
    SavingsConfig: run_savings,
    GatesConfig: run_gates,
    LoraByLayerConfig: run_lora,
}


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run a command; returns the exit status."""

    def run() -> int:
        if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
            print(f"icl-locate {__version__}")
            return 0
        config: Any = tyro.cli(
            Command,
            config=(tyro.conf.OmitArgPrefixes,),
            prog="icl-locate",
            description="Find where in a language model in-context learning happens. --version "
            "says which release this is.",
            args=arguments,
        )
        command = _RUN[type(config)]
        start(command.__name__.removeprefix("run_"), config)
        command(config)
        return 0

    return in_words(run)
