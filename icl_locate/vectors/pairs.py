"""Pairs of source and target, and the direction from the states of one to those of the other."""

import random
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_items, check_type
from icl_locate.engine.states import states
from icl_locate.errors import TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Example
from icl_locate.prompts.tokens import Prompts
from icl_locate.tasks.loading import load_task
from icl_locate.tasks.task import Task


def choose_pairs(examples: Any, n_pairs: int | None, seed: int) -> tuple[str, list[Example]]:
    """What the pairs are called, and those that are used."""
    if isinstance(examples, (Task, str, Path)):
        task = load_task(examples)
        name, pairs, wanted = task.name, list(task.train), n_pairs or min(32, len(task.train))
    else:
        expected = "a task, or a list of Examples"
        pairs = check_items("examples", examples, expected, ordered=True, error=TaskError)
        for pair in pairs:
            check_type("examples", pair, Example, expected=expected, error=TaskError)
        name, wanted = "pairs of one's own", n_pairs or len(pairs)
    if not 2 <= wanted <= len(pairs):
        raise TaskError(
            f"n_pairs is {wanted} of {len(pairs)} examples: expected two pairs of source and "
            "target or more, whose differences have a direction"
        )
    if wanted == len(pairs):
        return name, pairs
    return name, random.Random(f"pairs/{seed}").sample(pairs, wanted)


def last_states(
    model: Model, texts: Prompts, batch_size: int
) -> Float[Tensor, "pair layer_d_model"]:
    """The state of each text's last token after every block, all layers in a row."""
    found = states(model, texts, "last", batch_size=batch_size)[:, :, 0]
    return found.transpose(0, 1).flatten(1)


def principal_direction(
    differences: Float[Tensor, "pair width"],
) -> tuple[Float[Tensor, "width"], Float[Tensor, "width"], float]:
    """The mean of differences, their first principal direction, and how much that explains.

    The direction is a unit vector whose product with the mean is positive. Differences that are all
    the same have none: it is zero, and explains nothing.
    """
    wide = differences.double()
    mean = wide.mean(dim=0)
    _, sizes, directions = torch.linalg.svd(wide - mean, full_matrices=False)
    if sizes[0] <= 1e-9 * wide.norm():
        return mean, torch.zeros_like(mean), 0.0
    first = directions[0] if directions[0] @ mean >= 0 else -directions[0]
    return mean, first, float(sizes[0] ** 2 / (sizes**2).sum())
