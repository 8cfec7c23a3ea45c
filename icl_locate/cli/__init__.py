"""The command line: ``icl-locate`` demo, sweep, induction and savings."""

import sys
from typing import Annotated

import tyro

from icl_locate.cli.configs import DemoConfig, InductionConfig, SavingsConfig, SweepConfig
from icl_locate.cli.demo import run_demo
from icl_locate.cli.induction import run_induction
from icl_locate.cli.savings import run_savings
from icl_locate.cli.sweep import run_sweep
from icl_locate.errors import IclLocateError

__all__ = ["DemoConfig", "InductionConfig", "SavingsConfig", "SweepConfig", "main"]

Command = (
    Annotated[DemoConfig, tyro.conf.subcommand("demo")]
    | Annotated[SweepConfig, tyro.conf.subcommand("sweep")]
    | Annotated[InductionConfig, tyro.conf.subcommand("induction")]
    | Annotated[SavingsConfig, tyro.conf.subcommand("savings")]
)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run a command; returns the exit status."""
    config: DemoConfig | SweepConfig | InductionConfig | SavingsConfig = tyro.cli(
        Command,
        config=(tyro.conf.OmitArgPrefixes,),
        prog="icl-locate",
        description="Find where in a language model in-context learning happens.",
        args=arguments,
    )
    try:
        if isinstance(config, DemoConfig):
            run_demo(config)
        elif isinstance(config, InductionConfig):
            run_induction(config)
        elif isinstance(config, SavingsConfig):
            run_savings(config)
        else:
            run_sweep(config)
    except IclLocateError as error:
        print(f"icl-locate: {error}", file=sys.stderr)
        return 2
    return 0
