"""What each head's mean output does for prompts whose labels say nothing (Todd et al. 2024)."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.contents import check_table
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.engine.choice import Engine
from icl_locate.engine.states import states
from icl_locate.errors import ResultError, TaskError
from icl_locate.interventions.states import StateEdit
from icl_locate.metrics import Metric
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.heads import HeadTable
from icl_locate.studies.place import Executor
from icl_locate.studies.recipe import prompts_digest
from icl_locate.studies.setting import Setting
from icl_locate.tasks.loading import load_task
from icl_locate.tasks.task import Task
from icl_locate.vectors.injections import Context, context_pairs, run_beside
from icl_locate.vectors.runs import NOTHING, Runs, scores_of

if TYPE_CHECKING:
    import pandas as pd

_TRIES = 5  # prompts that are tried for each one that the mean wants


@short_repr("model", "task", "metric", "seeds", "effects", "floor", "ceiling")
@dataclass(frozen=True)
class HeadIndirectEffects(
    HeadTable,
    axes={"layer": "layers", "head": "heads", "seed": "seeds"},
    form="icl_locate.HeadIndirectEffects/1",
    tensors=("statistics", "scores", "ceiling", "floor", "mean_z"),
    labels=("seeds", "metric", "provenance"),
):
    """The indirect effects of all heads.

    Attributes:
        seeds: the seed of examples, shuffled labels and the mean's prompts.
        statistics: each prompt's sufficient statistics; cell ``layer * n_heads + head``, and behind
            them the ceiling and the floor.
        scores: the probability of the answer's first token where the head's output at the last
            token is its mean, over all prompts.
        ceiling: the same of the prompts as they are, with their own labels.
        floor: of the prompts with shuffled labels (or without examples), and nothing replaced.
        mean_z: what replaced the heads' outputs: their means over prompts that the model answers.
        metric: its name.
        provenance: model, task, prompts' hash, versions, options; ``n_mean`` prompts gave the
            means, ``n_right`` of ``n_tried`` were answered rightly.
        custom_metric: none.
    """

    seeds: tuple[int, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    scores: Float[Tensor, "layer head seed"]
    ceiling: Float[Tensor, "seed"]
    floor: Float[Tensor, "seed"]
    mean_z: Float[Tensor, "layer head d_head"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        self._check()
        check_table("mean_z", self.mean_z, (len(self.layers), len(self.heads), None))

    @property
    def effects(self) -> Float[Tensor, "layer head"]:
        """What each head's mean output adds to the probability of the answer's first token."""
        return self.worth

    @checked(ResultError)
    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row a head, the greatest effect first: layer, head, score, effect, low, high."""
        return super().to_dataframe(confidence).rename(columns={"worth": "effect"})

    def _gains(self) -> bool:
        return True


@checked(TaskError, task=anything, n_mean=whole(1))
def head_indirect_effects(
    model: Model,
    task: Task | str | Path,
    *,
    n_prompts: int | None = None,
    n_shots: int = 10,
    n_mean: int = 100,
    seed: int = 0,
    context: Context | str = "shuffled",
    instruction: bool = False,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    engine: Engine | str = "auto",
    batch_size: int = 64,
    token_budget: int | None = None,
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> HeadIndirectEffects:
    """Measure which heads carry a task (Todd et al. 2024, section 2.3).

    A head's mean output at the last token, over prompts of the task that the model answers rightly,
    takes the place of its output in prompts whose labels are shuffled among the examples. Its
    effect is what that adds to the probability of the answer's first token. All run as one grid.

    Args:
        n_prompts: the first so many queries of ``task.test``, with shuffled labels; ``None``: 25,
            or all.
        n_mean: prompts that the mean is taken over, fewer if the model answers fewer rightly; their
            queries are examples of ``task.train``, which are not among those that they are shown.
        seed: of the examples, the shuffled labels, and the mean's queries.
        context: of the prompts that outputs are replaced in: "shuffled", or "none", no examples at
            all, for tasks that are known from labels in any order: where the floor is no lower than
            the ceiling, nothing was taken away that a head could give back.
        instruction: whether prompts hold the task's instruction, which says it without examples.
        n_shots, choice, prepend_bos, engine, batch_size, token_budget: as in `sweep`.
        progress, store, executor: as in `sweep`.

    Raises:
        TaskError: if the model answers none of the mean's prompts; labels that cannot be shuffled,
            or that begin with the same token; too few queries; a task of given prompts.
        PromptError, ModelError, NumericalError: as their sources say.
    """
    task = load_task(task)
    if n_prompts is not None and not 1 <= n_prompts <= len(task.test):
        raise TaskError(
            f"n_prompts is {n_prompts}, but the task {task.name!r} has {len(task.test)} queries: "
            f"expected 1 to {len(task.test)}"
        )
    setting, finder = (
        Setting.of(
            task, metric=f"first_token_{what}", n_queries=n_prompts, most_queries=25, seeds=seed,
            n_shots=n_shots, choice=choice, prepend_bos=prepend_bos, max_new_tokens=1,
        )
        for what in ("prob", "accuracy")
    )  # fmt: skip
    said = {"context": str(context), "instruction": instruction}
    all_runs = Runs(model, engine, batch_size, token_budget)
    with all_runs.showing("head_indirect_effects", store, executor, progress=progress) as runs:
        return _measure(runs, setting, finder, n_mean, said)


def _measure(
    runs: Runs, setting: Setting, finder: Setting, n_mean: int, said: Mapping[str, Any]
) -> HeadIndirectEffects:
    """The effects in one setting; the means are of prompts that another one calls right."""
    model, batch_size = runs.model, runs.batch_size
    pairs = context_pairs(setting, model, **said)
    recipe = setting.recipe(model, [prompts for pair in pairs for prompts in pair])
    known, counts = answered_prompts(
        finder, model, n_mean, instruction=said["instruction"], batch_size=batch_size
    )
    mean_z = mean_outputs(model, known, batch_size=batch_size)
    n_layers, n_heads, _ = mean_z.shape
    every = [
        replace_output(mean_z, layer, head) for layer in range(n_layers) for head in range(n_heads)
    ]
    statistics = run_beside(runs, setting, pairs, lambda seed: every)  # noqa: ARG005
    scores = torch.from_numpy(scores_of(setting, statistics.numpy()))
    return HeadIndirectEffects(
        seeds=setting.seeds,
        statistics=statistics,
        scores=scores[:-2].view(n_layers, n_heads, 1),
        ceiling=scores[-2],
        floor=scores[-1],
        mean_z=mean_z,
        metric=setting.metric.name,
        provenance={
            **recipe,
            **counts,
            **said,
            "engine": str(runs.engine),
            "mean_prompts_sha256": prompts_digest(known),
        },
    )


def replace_output(mean_z: Float[Tensor, "layer head d_head"], layer: int, head: int) -> StateEdit:
    """The edit that gives a head its mean output at a prompt's last token."""
    return StateEdit("replace", mean_z[layer, head], layer, "last", point="z", head=head)


def answered_prompts(
    setting: Setting,
    model: Model,
    n_prompts: int,
    *,
    instruction: bool,
    batch_size: int,
) -> tuple[list[Prompts], dict[str, int]]:
    """Prompts whose queries are other examples of the task, and that the model answers rightly.

    The task's examples are asked in a drawn order, again with other shots once all were asked, up
    to five prompts for each that is wanted.

    Args:
        setting: its metric says what is right: more than 0 of an item's first column.

    Returns:
        Them, in batches; and how many they are, were tried, and were right.

    Raises:
        TaskError: if the model answers none of them rightly.
    """
    seed, others = setting.seeds[0], setting.unasked
    if not others:
        raise TaskError(
            f"the task {setting.task.name!r} has no examples but those that are asked: "
            "give it more train examples, to take means over"
        )
    order = random.Random(f"mean/{seed}").sample(others, len(others))
    found: list[Prompts] = []
    n_found = n_tried = n_right = 0
    while n_found < n_prompts and n_tried < _TRIES * n_prompts:
        start, again = n_tried % len(order), n_tried // len(order)
        queries = order[start : start + min(batch_size, n_prompts)]
        prompts = setting.prompts(model, seed + again, instruction=instruction, queries=queries)
        (cell,) = setting.run(model, prompts, [NOTHING], engine="hooks", batch_size=batch_size)
        right = np.flatnonzero(cell.statistics[:, 0] > 0).tolist()
        taken = right[: n_prompts - n_found]
        found += [prompts.take(taken)] if taken else []
        n_found, n_right = n_found + len(taken), n_right + len(right)
        n_tried += len(queries)
    if not found:
        raise TaskError(
            f"the model answers none of {n_tried} prompts of the task {setting.task.name!r} "
            f"rightly (by {setting.metric.name}): there is no mean to take; give more shots, "
            "another task, or a model that does it"
        )
    return found, {"n_mean": n_found, "n_tried": n_tried, "n_right": n_right}


def mean_outputs(
    model: Model, batches: Sequence[Prompts], *, batch_size: int
) -> Float[Tensor, "layer head d_head"]:
    """The mean output of every head at the last token of prompts."""
    total, n_prompts = torch.zeros(()), 0
    for prompts in batches:
        z = states(model, prompts, "last", point="z", batch_size=batch_size)
        total, n_prompts = total + z[:, :, 0].double().sum(dim=1), n_prompts + len(prompts)
    return (total / n_prompts).float()
