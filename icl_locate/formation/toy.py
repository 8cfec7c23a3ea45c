"""The toy of phase changes: a product of vectors, learnt by gradient descent."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.signatures import checked, whole
from icl_locate.errors import NumericalError, TaskError

_LONGEST = 1_000_000


@checked(
    TaskError,
    n_vectors=whole(1, 16),
    size=whole(1, _LONGEST),
    n_steps=whole(1, _LONGEST),
)
def product_of_vectors(
    clamped: Sequence[Sequence[int]] = ((), (2,), (1, 2)),
    *,
    n_vectors: int = 3,
    size: int = 20,
    n_steps: int = 1000,
    learning_rate: float = 1.0,
    seed: int = 1,
) -> Float[Tensor, "curve step"]:
    """How the loss falls while a product of vectors is learnt, some of them clamped to the truth.

    The outer product of all vectors shall become that of the true ones; the loss is half the mean
    squared error. Each vector's gradient is a product of how well the others fit: the loss stays
    on a plateau, then falls at once. With vectors clamped, the plateau is shorter, and one alone
    has none (Singh et al. 2024, section 4 and figure 5a).

    >>> free, half, alone = product_of_vectors(n_steps=200).tolist()
    >>> free[100] > half[100] > alone[100]
    True

    Args:
        clamped: which vectors each curve clamps, by number from 0.
        n_vectors, size: how many vectors, and their length.
        n_steps: of gradient descent.
        learning_rate: of a step.
        seed: of the true and the first vectors, standard normal, the same for all curves.

    Returns:
        The loss before each step.

    Raises:
        TaskError: if a number is out of range, or there is no such vector to clamp.
        NumericalError: if a loss is not a number: the steps are too long.
    """
    for place, chosen in enumerate(clamped):
        if any(number >= n_vectors for number in chosen):
            raise TaskError(
                f"clamped[{place}] is {list(chosen)}: expected numbers from 0 to {n_vectors - 1}, "
                "below n_vectors"
            )
    drawn = np.random.default_rng(seed).standard_normal((2, n_vectors, size))
    true, start = torch.from_numpy(drawn)
    curves = [_descend(true, start, chosen, n_steps, learning_rate) for chosen in clamped]
    losses = torch.stack(curves) if curves else torch.zeros(0, n_steps)
    if not bool(losses.isfinite().all()):
        raise NumericalError(
            f"the loss grows beyond all numbers at learning_rate {learning_rate}: lower it"
        )
    return losses


def _descend(
    true: Float[Tensor, "vector number"],
    start: Float[Tensor, "vector number"],
    clamped: Sequence[int],
    n_steps: int,
    learning_rate: float,
) -> Float[Tensor, "step"]:
    """One curve. The error needs no outer product: squares and products of them multiply."""
    n_vectors, size = true.shape
    held = torch.zeros(n_vectors, 1, dtype=torch.bool)
    held[list(clamped)] = True
    vectors, losses = torch.where(held, true, start), torch.zeros(n_steps, dtype=true.dtype)
    wanted = prod(true.square().sum(dim=1).tolist())
    for step in range(n_steps):
        squares, fits = vectors.square().sum(dim=1), (vectors * true).sum(dim=1)
        losses[step] = (wanted + squares.prod() - 2 * fits.prod()) / (2 * size**n_vectors)
        slope = _others(squares)[:, None] * vectors - _others(fits)[:, None] * true
        vectors = torch.where(held, true, vectors - learning_rate * slope / size**n_vectors)
    return losses.float()


def _others(numbers: Float[Tensor, "vector"]) -> Float[Tensor, "vector"]:
    """The product of all numbers but one, for each."""
    table = numbers.repeat(len(numbers), 1).fill_diagonal_(1.0)
    return table.prod(dim=1)
