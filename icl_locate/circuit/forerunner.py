"""Forerunner heads: those by which a label looks at the token right before it.

Cho et al. (ICLR 2025), section 4.1: there the text's sum is copied into the label.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate.checks.signatures import anything, checked
from icl_locate.circuit.attended import N_DRAWS, Cells, attention_sums, random_columns
from icl_locate.circuit.counts import Paid, counting, head_measure
from icl_locate.circuit.inputs import DEFAULT_SHOTS, CircuitSetting, Compat
from icl_locate.circuit.result import HeadMeasure
from icl_locate.circuit.tokens import TokenTypes
from icl_locate.errors import TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.place import using
from icl_locate.tasks.task import Task

ARMS = ("right label", "wrong label", "random token")


@checked(TaskError, task=anything)
def forerunner_heads(
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
    """Count the heads by which a label looks at its forerunner token.

    Of the label appended to the query, the first token pays more than 5/T of its attention to the
    token right before it, T being all of the prompt's tokens, BOS and label included (Cho et al.
    2025, section 4.1). The score is the share of prompts in which a head counts. Arms:

    - "right label": the query's own is appended;
    - "wrong label": the next class's: a head that copies text into any label counts as often;
    - "random token": the right label's attention to other tokens before it, never BOS, mean over
      eight seeded draws: what heads would count by chance;
    - "attention, right label" and so on: the attention itself, of which ``per_layer("max")`` is
      the authors' maximum copy magnitude.

    Args:
        n_queries: the first so many of ``task.test``; ``None`` means 512, or all that there are.
        seeds: each draws other examples.
        choice: ``None`` means the task's way, or "balanced" where that is "random".
        prepend_bos: whether prompts start with BOS; ``None`` follows the tokenizer.
        instruction: whether prompts hold the task's instruction.
        compat: "cho2025" reads the last token's attention to the one before it, as the authors'
            code does: of a label of several tokens both are its own.
        batch_size: prompts that run at once, at most.

    Returns:
        `HeadMeasure.per_layer` counts heads in each layer, `HeadMeasure.heads_beyond` names them.

    Raises:
        TaskError: a task without classes, or whose labels begin with the same token.
        PromptError: prompts without forerunner tokens, or beyond the model's context.
        ModelError, NumericalError: if attention cannot be watched, or is NaN.
    """
    chosen = CircuitSetting.of(
        task, counting("forerunner_heads", compat), n_shots=n_shots, n_queries=n_queries,
        seeds=seeds, choice=choice, prepend_bos=prepend_bos, instruction=instruction,
    )  # fmt: skip
    with using(store, study="forerunner_heads"):
        return _count(model, chosen, compat, batch_size, progress=progress)


def _count(
    model: Model, chosen: CircuitSetting, compat: str | None, batch_size: int, *, progress: bool
) -> HeadMeasure:
    plan = [_answered(chosen, model, seed) for seed in chosen.setting.seeds]
    recipe = chosen.recipe(model, [prompts for runs in plan for prompts, _ in runs], compat=compat)
    total, found = 2 * chosen.setting.n_queries * len(plan), []
    with tqdm(total=total, unit="prompt", desc="forerunner heads", disable=not progress) as bar:
        for seed, runs in zip(chosen.setting.seeds, plan, strict=True):
            paid = []
            for prompts, types in runs:
                cells = _cells(prompts, types, seed, compat)
                sums = attention_sums(model, prompts, cells, batch_size, bar.update)
                paid += [Paid.of(sums, cells, prompts, part) for part in (slice(1), slice(1, None))]
            right, random, wrong, _ = paid
            found.append([right, wrong, random])
    return head_measure(chosen, recipe, ARMS, found)


def _answered(
    chosen: CircuitSetting, model: Model, seed: int
) -> tuple[tuple[Prompts, TokenTypes], tuple[Prompts, TokenTypes]]:
    """A seed's prompts with the right label appended, and with the wrong one."""
    inputs = chosen.inputs(model, seed)
    right = chosen.answered(model, inputs, inputs.asked)
    return right, chosen.answered(model, inputs, chosen.wrong(inputs.asked))


def _cells(prompts: Prompts, types: TokenTypes, seed: int, compat: str | None) -> Cells:
    """Of the appended label's row: its forerunner token, then other tokens."""
    column = types.query_s
    if compat is not None:
        column = torch.full_like(column, prompts.tokens.shape[1] - 2)
    row = column + 1
    others = random_columns(prompts, row, column[:, None], N_DRAWS, seed)
    columns = torch.cat([column[:, None], others[..., 0]], dim=1)
    return Cells(row, columns, _each(columns.shape[1], len(row)))


def _each(n_cells: int, n_prompts: int) -> Float[Tensor, "sum batch cell"]:
    """Each cell by itself."""
    return torch.eye(n_cells)[:, None].expand(-1, n_prompts, -1)
