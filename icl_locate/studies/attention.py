"""How much attention heads pay to some cells: what every score of induction is made of."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def paid_to(
    pattern: Float[Tensor, "batch head query_pos key_pos"],
    rows: Int[Tensor, "*batch cell"],
    columns: Int[Tensor, "*batch cell"],
) -> Float[Tensor, "batch head cell"]:
    """The attention that heads pay to cells, (row, column), in [0, 1].

    A head's score is the mean of what it pays to the right cells, minus that of control cells: the
    same ones where nothing repeats, or those of the wrong answer.

    Args:
        rows, columns: the same cells of every sequence, or each sequence's own.
    """
    rows, columns = rows.to(pattern.device), columns.to(pattern.device)  # of its layer
    if rows.ndim == 1:
        return pattern[..., rows, columns]
    batch = torch.arange(len(pattern), device=pattern.device)[:, None]
    return pattern.transpose(0, 1)[:, batch, rows, columns].transpose(0, 1)
