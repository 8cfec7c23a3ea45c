"""Sweep over the number of shots: does the recognition layer move with it?"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import TaskError
from icl_locate.masking.plan import choose_conditions
from icl_locate.masking.result import SweepResult
from icl_locate.masking.sweeps import sweep
from icl_locate.models.bridge import Model
from icl_locate.models.loading import check_model, load_model
from icl_locate.tasks.loading import load_task
from icl_locate.tasks.task import Task, check_shots

PAPER_SHOTS = (1, 3, 5, 7, 9)


@checked(TaskError, model=anything, task=anything, shots=anything)
def sweep_shots(
    model: Model | str | Path,
    task: Task | str | Path,
    shots: int | Iterable[int] = PAPER_SHOTS,
    **options: Any,
) -> dict[int, SweepResult]:
    """One `sweep` for each number of shots (Sia et al. 2024, section 4).

    A prompt's examples are drawn by its seed, its query and their number: with more shots a prompt
    holds other examples, not the same and some more.

    Args:
        shots: numbers of examples, each once, or a single one.
        options: of `sweep`, without ``n_shots``. Conditions, if none are given, are those that the
            prompts with fewest examples allow, the same for all.

    Raises:
        TaskError: if ``shots`` is empty or names a number twice; and what `sweep` raises.
    """
    if not isinstance(model, (str, Path)):
        check_model(model)
    task = load_task(task)
    numbers = check_shots(task, shots)
    options["conditions"] = choose_conditions(task, min(numbers), options.get("conditions"))
    if isinstance(model, (str, Path)):
        model = load_model(model)
    return {n_shots: sweep(model, task, n_shots=n_shots, **options) for n_shots in numbers}
