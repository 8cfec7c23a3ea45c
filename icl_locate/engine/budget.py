"""How much runs at once: tokens in flight against free memory, halved when that was too much."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from icl_locate.engine.scoring import append_targets
from icl_locate.engine.shared.decoding import portions
from icl_locate.engine.shared.scoring import can_drop, plan_last, plan_scoring
from icl_locate.errors import ModelError, PromptError
from icl_locate.interventions.base import Intervention
from icl_locate.models.bridge import Model
from icl_locate.models.costs import ModelCosts
from icl_locate.models.memory import free_bytes, give_back, is_out_of_memory
from icl_locate.prompts.tokens import Prompts

_PLANNED_AT_ONCE = 16
_log = logging.getLogger(__name__)
T = TypeVar("T")


def _batches(n: int) -> list[range]:
    return [range(i, min(i + _PLANNED_AT_ONCE, n)) for i in range(0, n, _PLANNED_AT_ONCE)]


@dataclass(frozen=True)
class Cost:
    """How many tokens one prompt holds at once.

    Attributes:
        base: in the clean run.
        each: in each of the others; 0 where one does what an earlier one does, or nothing.
    """

    base: int
    each: tuple[int, ...]

    @classmethod
    def of(
        cls, model: Model, prompts: Prompts, runs: Sequence[Intervention], n_generated: int
    ) -> "Cost":
        """The cost of the dearest of some prompts, in the dearest of their forms."""
        found = [
            cls._of(model, form.take(items), [run.take(items) for run in runs], n_generated)
            for form in prompts.forms
            for items in _batches(len(form))
        ]
        return cls(
            max(cost.base for cost in found),
            tuple(max(some) for some in zip(*(cost.each for cost in found), strict=True)),
        )

    @classmethod
    def _of(
        cls, model: Model, prompts: Prompts, runs: Sequence[Intervention], n_generated: int
    ) -> "Cost":
        drop = can_drop(model)
        if n_generated:
            plan, _ = plan_last(model, prompts, runs, drop=drop, continues=True)
        else:
            prompts = append_targets(prompts)
            plan, _ = plan_scoring(model, prompts, runs, drop=drop)
        width = prompts.tokens.shape[1]
        held = [n + n_generated for n in plan.most_held()]
        if n_generated:  # a text with a row of its own has its own copy of the prompt's keys
            for portion in portions(plan, n_generated, int(model.cfg.d_model), drop=drop):
                for run in () if portion.by_prompt else portion.runs:
                    held[run] = 2 * width + n_generated
        first = {place: i for i, place in reversed(list(enumerate(plan.places)))}
        each = [
            0 if place is None or first[place] != i else held[place]
            for i, place in enumerate(plan.places)
        ]
        return cls(width + n_generated, tuple(each))

    @property
    def total(self) -> int:
        """All runs together."""
        return self.base + sum(self.each)

    @property
    def least(self) -> int:
        """The clean run, and the dearest of the others."""
        return self.base + max(self.each, default=0)

    def of_portion(self, runs: Sequence[int]) -> int:
        """Some of the runs together, and the clean one."""
        return self.base + sum(self.each[run] for run in runs)

    def portions(self, budget: int) -> list[list[int]]:
        """The numbers of the runs, in portions that a budget holds.

        Raises:
            PromptError: if it does not hold one.
        """
        if budget < self.least:
            raise PromptError(
                f"token_budget is {budget}, but one prompt with one run beside the clean one holds "
                f"{self.least} tokens at once: raise it"
            )
        found: list[list[int]] = []
        left = 0
        for run, cost in enumerate(self.each):
            if not found or cost > left:
                found.append([])
                left = budget - self.base
            found[-1].append(run)
            left -= cost
        return found


def default_budget(model: Model, prompts: Prompts, cost: int, least: int | None = None) -> int:
    """The tokens that half of the free memory holds.

    Args:
        cost: of one prompt: the budget where a model's sizes are not to be told.
        least: what a GPU is tried with, however full it is, since there only a try tells; ``None``
            means one prompt.
    """
    weights = list(model.original_model.parameters())
    device = weights[0].device
    try:
        costs = ModelCosts.of(model, at_most=True)
    except ModelError as error:
        warnings.warn(f"prompts run one by one, without a token_budget: {error}", stacklevel=2)
        return cost
    dtypes = (some.dtype for some in weights if some.is_floating_point())
    width = max(form.tokens.shape[1] for form in prompts.forms)
    each = costs.token_bytes(width, next(dtypes, torch.float32))
    tried = (cost if least is None else least) if device.type == "cuda" else 1
    return max(tried, int(free_bytes(device) / 2 / each))


def run_in_chunks(
    n_prompts: int, cost: int, budget: int, batch_size: int, run: Callable[[range], None]
) -> None:
    """Run batches that fit a budget; when memory runs out all the same, go on with half of it.

    Args:
        cost: of one prompt.
        run: runs the prompts of some numbers.

    Raises:
        PromptError: if the budget does not hold one prompt.
    """
    if budget < cost:
        raise PromptError(
            f"token_budget is {budget}, but one prompt holds {cost} tokens at once: raise it"
        )
    size, start = min(batch_size, budget // cost, n_prompts), 0
    while start < n_prompts:
        items = range(start, min(start + size, n_prompts))
        if fits(partial(run, items), smallest=size == 1):
            start += size
        else:
            size //= 2
            _log.warning("out of memory: %d prompts at once from here on", size)


def in_halves(batch_size: int, run: Callable[[int], T]) -> tuple[T, int]:
    """What a run with a batch size gives, or with half of it when memory runs out, and so on.

    Returns:
        It, and the batch size that was not too much.
    """
    found: list[T] = []

    def keep() -> None:
        found.append(run(batch_size))

    while not fits(keep, smallest=batch_size == 1):
        batch_size //= 2
        _log.warning("out of memory: %d prompts at once from here on", batch_size)
    return found[0], batch_size


def fits(run: Callable[[], object], *, smallest: bool) -> bool:
    """Run, and tell whether memory was enough for it.

    Args:
        smallest: whether there is nothing smaller to try, so that the error is raised.
    """
    try:
        run()
        return True
    except RuntimeError as error:
        if smallest or not is_out_of_memory(error):
            raise
    give_back()  # not before the error is gone, which holds all that the run had made
    return False
