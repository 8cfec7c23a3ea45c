"""Prompts into which something is put: run beside what they are held against, and scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate.checks.arguments import check_choice, check_text, check_type, refuse
from icl_locate.errors import MaskError, TaskError
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import score_totals
from icl_locate.metrics.base import check_columns
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import check_origin, hold_weights
from icl_locate.prompts.tokens import Prompts
from icl_locate.studies.recipe import describe_value
from icl_locate.studies.setting import Setting
from icl_locate.vectors.controls import random_like, shuffled_prompts
from icl_locate.vectors.runs import NOTHING

T = TypeVar("T")
Context = Literal["none", "shuffled"]


def run_beside(
    setting: Setting,
    model: Model,
    pairs: Sequence[tuple[Prompts, Prompts]],
    runs: Callable[[int], Sequence[Intervention]],
    *,
    progress: bool = False,
    **options: Any,
) -> Float[Tensor, "cell seed item stat"]:
    """The statistics of prompts under some runs; behind them the ceiling and the floor.

    Args:
        pairs: for each seed of the setting the prompts that show what is wanted (the ceiling), and
            those on which the runs act (without one, the floor).
        runs: what acts under a seed; as many for each.
        progress: whether to show a progress bar over the runs.
        options: of `Setting.run`.
    """
    tables: list[ndarray] = []
    acting = [runs(seed) for seed in setting.seeds]
    with tqdm(total=sum(map(len, acting)), unit="run", disable=not progress) as bar:
        for (clean, bare), some in zip(pairs, acting, strict=True):
            shown = setting.run(model, clean, [NOTHING], **options)
            *cells, floor = setting.run(
                model, bare, [*some, NOTHING], on_progress=bar.update, **options
            )
            found = [cell.statistics for cell in (*cells, *shown, floor)]
            check_columns(setting.metric, found)
            tables.append(np.stack(found))
    return torch.from_numpy(np.stack(tables, axis=1))


Origin = Mapping[str, Any]
"""The recipe of what a vector was measured on."""
Act = Callable[[Tensor, Origin], Sequence[Intervention]]
"""The interventions that put a vector in, one at each place."""


def score_vectors(
    setting: Setting,
    model: Model,
    vectors: Mapping[str, tuple[Tensor, Origin]],
    act: Act,
    *,
    context: Context | str,
    instruction: bool,
    said: Mapping[str, Any],
    **options: Any,
) -> dict[str, Any]:
    """Put vectors and a random one into the same prompts: the fields that their results share.

    Args:
        vectors: by name, the first of them the one that the random one is as long as.
        context, instruction: as `context_pairs` says.
        said: what the recipe says beside the setting's.
        options: of `run_beside`.

    Raises:
        MaskError: if one is of other weights.
        TaskError, PromptError, ModelError, NumericalError: as their sources say.
    """
    for name, (_, origin) in vectors.items():
        remedy = "measure one on this model"
        check_origin(f"what is put in as {name!r}", origin, model, remedy, MaskError)
    pairs = context_pairs(setting, model, context, instruction=instruction)
    with hold_weights(model):
        recipe = setting.recipe(model, [prompts for pair in pairs for prompts in pair])
        statistics = run_beside(setting, model, pairs, partial(_runs, vectors, act), **options)
    scores = torch.from_numpy(score_totals(setting.metric, statistics.sum(dim=-2).numpy()))
    made = {
        name: {"values": values, "origin": origin} for name, (values, origin) in vectors.items()
    }
    asked = {
        "context": str(context), "instruction": instruction, "vectors": describe_value(made),
        "engine": str(options.get("engine")),
    }  # fmt: skip
    return {
        "arms": (*vectors, "random"),
        "seeds": setting.seeds,
        "statistics": statistics,
        "scores": scores[:-2].view(len(vectors) + 1, -1, len(setting.seeds)),
        "ceiling": scores[-2],
        "floor": scores[-1],
        "metric": setting.metric.name,
        "provenance": {**recipe, **asked, **said, **setting.outcome()},
        "custom_metric": setting.custom_metric,
    }


def _runs(vectors: Mapping[str, tuple[Tensor, Origin]], act: Act, seed: int) -> list[Intervention]:
    values, origin = next(iter(vectors.values()))
    arms = [*vectors.values(), (random_like(values, seed), origin)]
    return [run for arm in arms for run in act(*arm)]


def context_pairs(
    setting: Setting, model: Model, context: Context | str, *, instruction: bool
) -> list[tuple[Prompts, Prompts]]:
    """For each seed prompts with examples, and those that vectors are put into.

    Args:
        context: of the latter, "none": no examples; "shuffled": their labels are dealt out anew.

    Raises:
        TaskError: if the context is none of these; as `shuffled_prompts` says.
    """
    check_choice("context", context, get_args(Context), error=TaskError)
    without = replace(setting, n_shots=0)
    return [
        (
            setting.prompts(model, seed, instruction=instruction),
            shuffled_prompts(setting, model, seed, instruction=instruction)
            if context == "shuffled"
            else without.prompts(model, seed, instruction=instruction),
        )
        for seed in setting.seeds
    ]


def check_against(against: Any, kind: type[T]) -> Mapping[str, T]:
    """Controls by name, each of the vector's own kind.

    Raises:
        MaskError: if one is not, or has a name that is taken.
    """
    expected = f"a mapping of names to {kind.__name__} values"
    if against is None:
        return {}
    if not isinstance(against, Mapping) or {"vector", "random"} & {*against}:
        refuse("against", against, expected, MaskError, "'vector' and 'random' are taken")
    for name, value in against.items():
        check_text("a name in against", name, error=MaskError)
        check_type("against", value, kind, expected=expected, error=MaskError)
    return against
