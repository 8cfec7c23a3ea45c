"""What a vector is held against: shuffled labels, and random directions of the same length."""

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.errors import TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Example, choose_examples
from icl_locate.prompts.tokens import Prompts
from icl_locate.studies.setting import Setting


def shuffled_prompts(
    setting: Setting,
    model: Model,
    seed: int,
    *,
    queries: Sequence[Example] | None = None,
    instruction: bool | None = None,
) -> Prompts:
    """The setting's prompts of a seed, but for their examples' labels, dealt out anew in each.

    They hold the same examples and the same labels; which belongs to which says nothing of the
    task any more (Todd et al. 2024).

    Args:
        queries, instruction: as `Setting.prompts` says.

    Raises:
        TaskError: if all examples of a prompt have the same label; a task of given prompts, whose
            examples nobody can lay out anew.
    """
    asked = setting.queries if queries is None else queries
    shots = None
    if setting.task.prompts is None:
        choice = str(setting.choice)
        drawn = [
            choose_examples(query, setting.task.train, setting.n_shots, seed=seed, choice=choice)
            for query in asked
        ]
        shots = [
            shuffle_labels(shown, f"{seed}/{query.source}")
            for query, shown in zip(asked, drawn, strict=True)
        ]
    return setting.prompts(
        model, seed, instruction=instruction, queries=queries, shots=() if shots is None else shots
    )


def shuffle_labels(examples: Sequence[Example], key: str) -> list[Example]:
    """The same examples with the same targets, dealt out anew: not all have their own.

    Args:
        key: what the draw depends on, alone.

    Raises:
        TaskError: if they all have the same target, so that there is nothing to shuffle.
    """
    labels = [example.target for example in examples]
    if len(set(labels)) < 2:
        raise TaskError(
            f"n_shots is {len(labels)}, and the labels of a prompt's examples are {labels}: there "
            "is nothing to shuffle; ask for more shots, for choice='balanced', or another seed"
        )
    generator, dealt = random.Random(f"labels {key}"), labels
    while dealt == labels:
        dealt = generator.sample(labels, len(labels))
    return [
        replace(example, target=target) for example, target in zip(examples, dealt, strict=True)
    ]


def random_like(vector: Float[Tensor, "*axes width"], seed: int) -> Float[Tensor, "*axes width"]:
    """A random direction as long as each vector, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(vector.shape, generator=generator, dtype=torch.float64)
    drawn *= vector.double().norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
    return drawn.to(vector.dtype)
