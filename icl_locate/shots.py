"""Sweep over the number of shots: does the recognition layer move with it?"""

from collections.abc import Iterable
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from icl_locate.errors import TaskError
from icl_locate.models import check_model
from icl_locate.results import SweepResult
from icl_locate.sweeps import sweep
from icl_locate.tasks.task import Task

PAPER_SHOTS = (1, 3, 5, 7, 9)


def sweep_shots(
    model: TransformerBridge, task: Task, shots: Iterable[int] = PAPER_SHOTS, **options: Any
) -> dict[int, SweepResult]:
    """One `sweep` for each number of shots (Sia et al. 2024, section 4).

    A prompt's examples are drawn by its seed, its query and their number: with more shots a prompt
    holds other examples, not the same and some more.

    Args:
        shots: numbers of examples, each once.
        options: of `sweep`, without ``n_shots``.

    Raises:
        TaskError: if ``shots`` is empty or names a number twice; and what `sweep` raises.
    """
    check_model(model)
    numbers = check_shots(shots)
    return {n_shots: sweep(model, task, n_shots=n_shots, **options) for n_shots in numbers}


def check_shots(shots: Iterable[int]) -> tuple[int, ...]:
    """The numbers of shots.

    Raises:
        TaskError: if there are none, or one stands there twice.
    """
    numbers = tuple(shots)
    if not numbers or len(set(numbers)) < len(numbers):
        raise TaskError(f"shots are {list(numbers)}: expected at least one number, each once")
    return numbers
