"""The first second of a command: what it is about to do, and which of its options cannot be.

Everything here comes before torch is loaded, so that a typo costs no wait.
"""

import sys
from pathlib import Path
from typing import Any

from icl_locate.errors import IclLocateError

_LEAST = {
    "n_queries": 1, "n_shots": 0, "n_train": 1, "n_dev": 1, "n_curve": 0, "n_effects": 0,
    "controls": 0, "repeats": 1, "max_epochs": 1, "patience": 1, "seed": 0, "batch_size": 1,
    "token_budget": 1, "max_new_tokens": 1, "shot_tokens": 1, "query_tokens": 1,
    "instruction_tokens": 0,
}  # fmt: skip
_SEVERAL = ("seeds", "shots", "layers", "lengths")
_FILES = ("conditions_file", "reference", "sweep", "data")


def say(config: Any, text: str) -> None:
    """Tell what goes on, where progress bars are shown too."""
    if not getattr(config, "quiet", False):
        print(text, file=sys.stderr, flush=True)


def start(command: str, config: Any) -> None:
    """Say what a command will do, and refuse what is known to be wrong with its options.

    Raises:
        IclLocateError: naming the option.
    """
    model = getattr(config, "model", "embedded")
    task = f", task {config.task}" if hasattr(config, "task") else ""
    say(config, f"icl-locate {command}: model {model}{task}")
    _check_numbers(config)
    _check_files(config)
    if hasattr(config, "conditions"):
        _check_conditions(config)
    if hasattr(config, "metric") and getattr(config, "measure", True):
        _check_task(config)
    if hasattr(config, "model"):
        from icl_locate.models.names import find_model

        find_model(config.model, config.revision)
    say(config, "loading libraries")


def load_chosen_model(config: Any) -> Any:
    """The model that a command's options name."""
    import icl_locate as icl

    say(config, f"loading the model {config.model}")
    return icl.load_model(
        config.model, device=config.device, dtype=config.dtype, revision=config.revision
    )


def _check_numbers(config: Any) -> None:
    from icl_locate.checks.arguments import check_count, check_number, check_seeds

    for name, value in vars(config).items():
        option = f"--{name.replace('_', '-')}"
        if name in _LEAST and value is not None:
            check_count(option, value, least=_LEAST[name])
        elif name in _SEVERAL and value != getattr(type(config), name):
            check_seeds(value, name=option)
        elif name == "confidence":
            check_number(option, value, above=0.0, below=1.0)
        elif name == "fractions":
            for share in value:
                check_number(option, share, above=0.0, most=1.0)


def _check_files(config: Any) -> None:
    for name in _FILES:
        path: Path | None = getattr(config, name, None)
        if path is None or path.exists() or path.with_name(f"{path.name}.safetensors").exists():
            continue
        option = f"--{name.replace('_', '-')}"
        raise IclLocateError(f"{option} is {str(path)!r}: there is no such file or directory")


def _check_conditions(config: Any) -> None:
    from icl_locate.cli.conditions_file import read_conditions
    from icl_locate.interventions.conditions import get_condition
    from icl_locate.interventions.layers import masked_layers

    masked_layers(config.scope, 0, 1)
    for condition in config.conditions:
        get_condition(condition)
    if config.conditions_file is not None:
        if config.conditions:
            raise IclLocateError("give either --conditions or --conditions-file, not both")
        read_conditions(config.conditions_file)


def _check_task(config: Any) -> None:
    """Check the task as far as this machine holds it, and the metric that it is scored with."""
    from icl_locate.cli.writing import check_code
    from icl_locate.metrics import get_metric, require_answers
    from icl_locate.tasks import check_task

    task = check_task(config.task, data=config.data)
    if config.metric is None and task is None:
        return
    metric: str = config.metric or (task.metric if task else "")
    scored = get_metric(metric)
    check_code(metric, allowed=config.run_code or getattr(config, "dry_run", False))
    if getattr(config, "measure", False) or hasattr(config, "loss"):
        require_answers(scored)
