"""Prompts into which something is put: run beside what they are held against, and scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_text, check_type, refuse
from icl_locate.errors import MaskError, TaskError
from icl_locate.interventions.base import Intervention
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import check_origin
from icl_locate.prompts.tokens import Prompts
from icl_locate.studies.recipe import describe_value
from icl_locate.studies.setting import Setting
from icl_locate.vectors.controls import random_like, shuffled_prompts
from icl_locate.vectors.runs import NOTHING, Runs, scores_of

T = TypeVar("T")
Context = Literal["none", "shuffled"]


def run_beside(
    runs: Runs,
    setting: Setting,
    pairs: Sequence[tuple[Prompts, Prompts]],
    acting: Callable[[int], Sequence[Intervention]],
) -> Float[Tensor, "cell seed item stat"]:
    """The statistics of prompts under some interventions; behind them the ceiling and the floor.

    Args:
        pairs: for each seed of the setting the prompts that show what is wanted (the ceiling), and
            those on which interventions act (without one, the floor).
        acting: what acts under a seed, one after the other; as many for each.
    """
    tables = []
    for (clean, bare), seed in zip(pairs, setting.seeds, strict=True):
        ceiling = runs.tables(setting, clean, [NOTHING])
        found = runs.tables(setting, bare, [*acting(seed), NOTHING])
        tables.append(np.concatenate([found[:-1], ceiling, found[-1:]]))
    return torch.from_numpy(np.stack(tables, axis=1))


Origin = Mapping[str, Any]
"""The recipe of what a vector was measured on."""
Act = Callable[[Tensor, Origin], Sequence[Intervention]]
"""The interventions that put a vector in, one at each place."""


def score_vectors(
    runs: Runs,
    setting: Setting,
    vectors: Mapping[str, tuple[Tensor, Origin]],
    act: Act,
    *,
    context: Context | str,
    instruction: bool,
    said: Mapping[str, Any],
) -> dict[str, Any]:
    """Put vectors and a random one into the same prompts: the fields that their results share.

    Args:
        vectors: by name, the first of them the one that the random one is as long as.
        context, instruction: as `context_pairs` says.
        said: what the recipe says beside the setting's.

    Raises:
        MaskError: if one is of other weights.
        TaskError, PromptError, ModelError, NumericalError: as their sources say.
    """
    for name, (_, origin) in vectors.items():
        remedy = "measure one on this model"
        check_origin(f"what is put in as {name!r}", origin, runs.model, remedy, MaskError)
    pairs = context_pairs(setting, runs.model, context, instruction=instruction)
    recipe = setting.recipe(runs.model, [prompts for pair in pairs for prompts in pair])
    statistics = run_beside(runs, setting, pairs, partial(_interventions, vectors, act))
    scores = torch.from_numpy(scores_of(setting, statistics.numpy()))
    made = {
        name: {"values": values, "origin": origin} for name, (values, origin) in vectors.items()
    }
    asked = {
        "context": str(context), "instruction": instruction, "vectors": describe_value(made),
        "engine": str(runs.engine),
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


def _interventions(
    vectors: Mapping[str, tuple[Tensor, Origin]], act: Act, seed: int
) -> list[Intervention]:
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
