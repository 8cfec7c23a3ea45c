"""The first second of a command: what it is about to do, and which of its options cannot be.

Everything here comes before torch is loaded, so that a typo costs no wait.
"""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from icl_locate.checks.arguments import ErrorKind, check_number, check_seeds
from icl_locate.checks.signatures import Check, checks_of_fields, number
from icl_locate.cli.named import import_named, is_named
from icl_locate.cli.options import MADE, Model, Output, Task
from icl_locate.errors import IclLocateError


def say(config: Any, text: str) -> None:
    """Tell what goes on, where progress bars are shown too."""
    if not getattr(config, "quiet", False):
        print(text, file=sys.stderr, flush=True)


def start(config: Output) -> None:
    """Say what a command will do, and refuse what is known to be wrong with its options.

    Raises:
        IclLocateError: naming the option.
    """
    model = config.model if isinstance(config, Model) else "embedded"
    asked = config if isinstance(config, Task) and config.scores else None
    task = f", task {asked.task}" if asked else ""
    say(config, f"icl-locate {config.command}: {config.about or f'model {model}{task}'}")
    _check_values(config)
    config.check()
    if asked:
        _check_task(asked)
    if isinstance(config, Model):
        config.find()
    say(config, "loading libraries")


def choose_metric(config: Task, task: Any) -> Any:
    """The metric of a command's options, one of the user's own among them, or the task's.

    Args:
        task: ``None`` if it is not known yet, and the options name a metric.

    Raises:
        IclLocateError: if there is none such; if it runs programs, and that was not asked for.
    """
    from icl_locate.metrics import get_metric
    from icl_locate.metrics.traits import runs_programs

    given: Any = config.metric or task.metric
    if is_named(given):
        given = import_named("--metric", given)
    metric = get_metric(given)
    if runs_programs(metric) and not config.allows_code:
        raise IclLocateError(
            f"{metric.name} runs the programs that the model writes: add --run-code if you want "
            "that (pass@1 runs them in the sandbox), or choose another --metric"
        )
    return metric


def _check_values(config: Output) -> None:
    """Check what was given as the library checks its arguments of these names."""
    kind: Any = type(config)
    checks = checks_of_fields(kind)
    for field in fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        option = f"--{field.name.replace('_', '-')}"
        (_OWN.get(field.name) or checks[field.name])(option, value, IclLocateError)
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path) and field.name not in MADE:
                _check_file(option, path)


def _check_file(option: str, path: Path) -> None:
    if not (path.exists() or path.with_name(f"{path.name}.safetensors").exists()):
        raise IclLocateError(f"{option} is {str(path)!r}: there is no such file or directory")


def _check_each_once(name: str, value: Any, error: ErrorKind) -> None:
    check_seeds(value, name=name, error=error)


def _check_shares(name: str, value: Any, error: ErrorKind) -> None:
    for share in value:
        check_number(name, share, above=0.0, most=1.0, error=error)


_OWN: dict[str, Check] = {
    "fractions": _check_shares,
    "layers": _check_each_once,
    "lengths": _check_each_once,
    "shots": _check_each_once,
    "threshold": number(above=0.0, most=1.0),
}
"""Options of which more is known than their type says."""


def _check_task(config: Task) -> None:
    """Check the task as far as this machine holds it, and the metric that it is scored with."""
    from icl_locate.metrics import require_answers
    from icl_locate.tasks import check_task

    task = check_task(config.task, data=config.data)
    if config.metric is None and task is None:
        return
    metric = choose_metric(config, task)
    if config.reads_answers:
        require_answers(metric)
