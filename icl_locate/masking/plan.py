"""What a sweep runs: its prompts and masks, checked before anything starts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from icl_locate._types import Segment
from icl_locate.checks.arguments import check_items
from icl_locate.engine.choice import ENGINES
from icl_locate.errors import MaskError, TaskError
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.conditions import PAPER_CONDITIONS, Condition, get_condition
from icl_locate.interventions.layers import as_starts, masked_layers
from icl_locate.interventions.masks import check_segments
from icl_locate.masking.sia2024 import COMPAT, sia2024_mask, sia2024_prompts
from icl_locate.metrics import readout_of
from icl_locate.prompts.tokens import Prompts
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task


@dataclass(frozen=True)
class Plan:
    """Everything that `sweep` was asked for.

    Attributes:
        layers: the start layers that were asked for; ``None`` means all.
        alongside: what acts in every cell, beside what the condition does there.
    """

    model: Any  # a bridge; until the plan is checked perhaps only its name
    setting: Setting
    conditions: tuple[Condition, ...]
    layers: frozenset[int] | None
    scope: str
    compat: str | None
    alongside: Intervention | None = None

    @property
    def starts(self) -> tuple[int, ...]:
        """The start layers that run, ascending: 0 and one past the last are always among them.

        Raises:
            MaskError: if the model has no such layer.
        """
        return as_starts(self.layers, int(self.model.cfg.n_layers))

    def group(self, condition: Condition) -> str:
        """A name for the conditions that have their prompts in common."""
        if self.relabels(condition):
            return condition.name
        return "with instruction" if condition.instruction else "without instruction"

    def relabels(self, condition: Condition) -> bool:
        """Whether the condition hides what other code hides, not what the segments say."""
        return self.compat is not None and not condition.keep_self

    def shown(self, condition: Condition, seed: int) -> "Shown":
        """The prompts that a condition's masks act on."""
        prompts = self.setting.prompts(self.model, seed, instruction=condition.instruction)
        if not self.relabels(condition):
            return Shown(prompts)
        return Shown(*sia2024_prompts(self.model.tokenizer, prompts, condition))

    def masks(self, condition: Condition, n_hidden_generated: int = 0) -> list[Intervention]:
        """What a condition does at each point of the sweep.

        Args:
            n_hidden_generated: how many generated tokens other code hides, too.
        """
        n_layers = int(self.model.cfg.n_layers)
        layers = [masked_layers(self.scope, start, n_layers) for start in self.starts]
        if self.relabels(condition):
            return [sia2024_mask(some, n_hidden_generated) for some in layers]
        return [condition.at(some) for some in layers]

    def runs(self, condition: Condition, n_hidden_generated: int = 0) -> list[Intervention]:
        """What is done in each of the condition's cells, what acts alongside included."""
        masks = self.masks(condition, n_hidden_generated)
        return masks if self.alongside is None else [mask | self.alongside for mask in masks]


@dataclass(frozen=True)
class Shown:
    """Prompts that some conditions have in common.

    ``hidden_generated`` says how many generated tokens other code hides behind each; empty: none.
    """

    prompts: Prompts
    hidden_generated: tuple[int, ...] = ()

    def parts(self) -> list[tuple[int, list[int], Prompts]]:
        """Prompts behind which equally many are hidden: how many, which they are, and they."""
        if not self.hidden_generated:
            return [(0, list(range(len(self.prompts))), self.prompts)]
        found = []
        for number in sorted(set(self.hidden_generated)):
            items = [i for i, hidden in enumerate(self.hidden_generated) if hidden == number]
            found.append((number, items, self.prompts.take(items)))
        return found


def choose_conditions(
    task: Task,
    n_shots: int,
    conditions: str | Condition | Iterable[str | Condition] | None,
) -> tuple[Condition, ...]:
    """The conditions that were asked for, else those of the paper that a task's prompts allow.

    Raises:
        MaskError: an unknown name; or prompts with neither an instruction nor examples.
    """
    if isinstance(conditions, (str, Condition)):
        conditions = [conditions]
    if conditions is not None:
        expected = "a Condition, the name of one of the paper's, or a list of them"
        given = check_items("conditions", conditions, expected, ordered=True, error=TaskError)
        return tuple(get_condition(condition) for condition in given)
    possible = tuple(
        condition
        for condition in PAPER_CONDITIONS
        if condition.instruction in task.instructed
        and (n_shots > 0 or Segment.EXAMPLES not in condition.hide)
    )
    if not possible:
        raise MaskError(
            f"the prompts of the task {task.name!r} have neither an instruction nor examples to "
            "hide: set template.instruction, or use n_shots of 1 or more"
        )
    return possible


def build_all(plan: Plan) -> dict[tuple[str, int], Shown]:
    """The prompts of every group of conditions and seed, checked before anything runs."""
    found: dict[tuple[str, int], Shown] = {}
    for condition in plan.conditions:
        for seed in plan.setting.seeds:
            key = plan.group(condition), seed
            if key not in found:
                found[key] = plan.shown(condition, seed)
            check_segments(plan.masks(condition)[0], found[key].prompts.segments)
    return found


def check(plan: Plan, engine: str) -> None:
    """Refuse a plan that cannot run.

    Raises:
        TaskError: no conditions, or one twice; unknown engine or compat, or one that does not go
            with the task or metric.
        MaskError: an unknown scope; a condition that hides what the prompts do not hold.
    """
    if engine not in ENGINES:
        raise TaskError(f"engine is {engine!r}: expected one of {', '.join(ENGINES)}")
    if plan.compat not in (None, COMPAT):
        raise TaskError(f"compat is {plan.compat!r}: expected None or {COMPAT!r}")
    if plan.compat is not None and plan.setting.task.prompts is not None:
        raise TaskError(
            f"compat={COMPAT!r} counts the tokens of a template's texts, but the task "
            f"{plan.setting.task.name!r} has prompts of its own: leave compat out"
        )
    if plan.compat is not None and readout_of(plan.setting.metric).calibrates:
        raise TaskError(
            f"compat={COMPAT!r} hides the columns of a code that calibrates nothing, but the "
            f"metric is {plan.setting.metric.name!r}: use 'label_accuracy', or leave compat out"
        )
    names = [condition.name for condition in plan.conditions]
    if not names or len(set(names)) < len(names):
        raise TaskError(f"conditions are {names}: expected at least one, each once")
    masked_layers(plan.scope, 0, 1)
    for condition in plan.conditions:
        _check_condition(condition, plan.setting)


def _check_condition(condition: Condition, setting: Setting) -> None:
    if condition.instruction and setting.task.template.instruction is None:
        raise MaskError(
            f"condition {condition.name!r} needs an instruction in the prompt, but the task "
            f"{setting.task.name!r} has none: set template.instruction, or use conditions with "
            "instruction=False"
        )
    hides_examples = Segment.EXAMPLES in condition.hide and not condition.without_bias
    if hides_examples and setting.n_shots == 0:
        raise MaskError(
            f"condition {condition.name!r} hides examples, but n_shots is 0: use 1 or more"
        )
