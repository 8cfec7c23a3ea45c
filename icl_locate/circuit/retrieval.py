"""Induction heads: those by which the query's forerunner token looks at the examples' labels.

Cho et al. (ICLR 2025), section 4.2: there the labels of texts alike are copied into the answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked
from icl_locate.circuit.attended import N_DRAWS, Cells, attention_sums, generators, random_columns
from icl_locate.circuit.counts import Paid, counting, head_measure
from icl_locate.circuit.inputs import DEFAULT_SHOTS, CircuitSetting, Compat, Inputs
from icl_locate.circuit.result import HeadMeasure
from icl_locate.circuit.tokens import TokenTypes
from icl_locate.errors import TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.place import using
from icl_locate.tasks.task import Task

COUNTED = "correct induction"
ARMS = ("induction", COUNTED, "random tokens", "permuted classes")
PARTS = slice(0, 1), slice(1, 2), slice(2, 2 + N_DRAWS), slice(2 + N_DRAWS, None)
"""The sums of each arm."""


@checked(TaskError, task=anything)
def induction_heads(
    model: Model,
    task: Task | str | Path,
    *,
    n_shots: int = DEFAULT_SHOTS,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = 0,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    instruction: bool = False,
    compat: Compat | None = None,
    batch_size: int = 32,
    progress: bool = False,
    store: str | Path | Store | None = None,
) -> HeadMeasure:
    """Count the heads by which the query's forerunner token looks at the examples' labels.

    Their first tokens are meant, and T is the tokens of the whole prompt, BOS and the query's right
    label included (Cho et al. 2025, section 4.2). The score is the share of prompts in which a head
    counts. Arms, on the same prompts:

    - "induction": to all labels together it pays more than 5/T;
    - "correct induction": to labels of the query's class it pays by more than 5/(T * classes) more
      than to the other ones;
    - "random tokens": "induction" with as many other tokens in place of the labels, but never BOS;
    - "permuted classes": "correct induction" with the examples' classes permuted within the prompt;
      both are the mean over eight seeded draws: what heads would count by chance;
    - "attention, induction" and so on: the attention, or the difference, itself.

    Args:
        n_shots, n_queries, seeds, choice, prepend_bos, instruction, batch_size, progress: as in
            `forerunner_heads`.
        compat: "cho2025" reads the row of the last token but one, as the authors' code does: of a
            label of several tokens it is its own.

    Returns:
        `HeadMeasure.per_layer` counts heads in each layer, `HeadMeasure.heads_beyond` names them.

    Raises:
        TaskError, PromptError, ModelError, NumericalError: as `forerunner_heads` does.
    """
    chosen = CircuitSetting.of(
        task, counting("induction_heads", compat), n_shots=n_shots, n_queries=n_queries,
        seeds=seeds, choice=choice, prepend_bos=prepend_bos, instruction=instruction,
    )  # fmt: skip
    with using(store, study="induction_heads"):
        return _count(model, chosen, compat, batch_size, progress=progress)


def _count(
    model: Model, chosen: CircuitSetting, compat: str | None, batch_size: int, *, progress: bool
) -> HeadMeasure:
    plan = [Shown.of(chosen, model, seed, compat) for seed in chosen.setting.seeds]
    recipe = chosen.recipe(model, [shown.prompts for shown in plan], compat=compat)
    total, found = chosen.setting.n_queries * len(plan), []
    with tqdm(total=total, unit="prompt", desc="induction heads", disable=not progress) as bar:
        for shown in plan:
            cells, prompts = _cells(shown), shown.prompts
            sums = attention_sums(model, prompts, cells, batch_size, bar.update)
            found.append([
                Paid.of(sums, cells, prompts, part, len(chosen.labels) if by_class else 1)
                for part, by_class in zip(PARTS, (False, True, False, True), strict=True)
            ])  # fmt: skip
    return head_measure(chosen, recipe, ARMS, found)


@short_repr("seed")
@dataclass(frozen=True)
class Shown:
    """The prompts of a seed with the right label appended.

    Attributes:
        inputs: the prompts without it.
        types: of the prompts with it.
        rows: the query's forerunner token.
    """

    seed: int
    inputs: Inputs
    prompts: Prompts
    types: TokenTypes
    rows: Int[Tensor, "batch"]

    @classmethod
    def of(cls, chosen: CircuitSetting, model: Model, seed: int, compat: str | None) -> "Shown":
        """Of a setting; ``compat`` as `induction_heads` says."""
        inputs = chosen.inputs(model, seed)
        prompts, types = chosen.answered(model, inputs, inputs.asked)
        rows = types.query_s
        if compat is not None:
            rows = torch.full_like(rows, prompts.tokens.shape[1] - 2)
        return cls(seed, inputs, prompts, types, rows)

    @property
    def right(self) -> Bool[Tensor, "batch shot"]:
        """Whether an example is of the query's class."""
        return self.inputs.shown == self.inputs.asked[:, None]


def _cells(shown: Shown) -> Cells:
    """The labels, and as many other tokens in each draw; the arms' sums of them, one by one."""
    labels, n = shown.types.y, shown.types.n_shots
    others = random_columns(shown.prompts, shown.rows, labels, N_DRAWS, shown.seed)
    columns = torch.cat([labels, others.flatten(1)], dim=1)
    signs = shown.right.float() * 2 - 1
    weights = torch.zeros(2 + 2 * N_DRAWS, *columns.shape)
    weights[0, :, :n] = 1
    weights[1, :, :n] = signs
    for draw in range(N_DRAWS):
        weights[2 + draw, :, n * (draw + 1) : n * (draw + 2)] = 1
    weights[2 + N_DRAWS :, :, :n] = _permuted(shown, signs)
    return Cells(shown.rows, columns, weights)


def _permuted(shown: Shown, signs: Float[Tensor, "batch shot"]) -> Float[Tensor, "draw batch shot"]:
    """Each example's class given to another one of its prompt, or left."""
    drawn, n_shots = generators(shown.prompts, shown.seed), signs.shape[1]
    numbers = [torch.rand(N_DRAWS, n_shots, generator=generator) for generator in drawn]
    order = torch.stack(numbers, dim=1).argsort(dim=-1)
    return signs.expand(N_DRAWS, -1, -1).gather(2, order)
