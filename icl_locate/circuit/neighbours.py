"""Whose neighbours agree: how many of an item's nearest in one space are its nearest in another.

Similarities are cosines. Where several items are equally near at the border of the nearest ``k``,
each of them stands among these with the same probability; what is counted is the overlap that is
expected then, exactly. So features that are all alike, which tell no item from another, overlap as
much as drawn neighbours do.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_type, refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import TaskError

ROWS_AT_ONCE = 1024
TIE = 1e-12
"""Cosines of equal items differ by less: what 64 bits make of them."""


@checked(TaskError, a=anything, b=anything)
def neighbour_overlap(
    a: Float[Tensor, "item d_a"], b: Float[Tensor, "item d_b"], k: int
) -> Float[Tensor, "item"]:
    """The share of each item's ``k`` nearest neighbours in ``a`` that are so in ``b``, too.

    Nearness is cosine similarity; an item is none of its own neighbours. Drawn neighbours overlap
    by ``k / (n - 1)`` of ``n`` items; equal features by 1, where no items are equally near. Ties
    count by what is expected of breaking them at random (of each features apart): with one-hot rows
    of classes as ``b``, an item whose class has ``c`` members can reach ``k / (c - 1)`` at most.

    Args:
        a, b: features of the same items, in the same order, of any widths.
        k: fewer than there are items.

    Returns:
        In [0, 1], as float64.

    Raises:
        TaskError: features of other numbers of items, NaN or infinity, rows of zeros, which no
            cosine is of; as many neighbours as items or more.

    Source: Cho et al. (ICLR 2025), appendix A.2; ties are this package's own.

    >>> a = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> neighbour_overlap(a, 3 * a, 1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    rows = unit_rows("a", a)
    other = unit_rows("b", b, len(rows))
    check_k(k, len(rows))
    return overlaps([rows], other, k)[0]


def check_k(k: int, n_items: int) -> None:
    """Refuse as many neighbours as there are items, or more."""
    if k >= n_items:
        raise TaskError(
            f"k is {k}, but there are {n_items} items, of which each has {n_items - 1} neighbours "
            "at most: expected a smaller k, or more queries"
        )


def unit_rows(name: str, features: object, n_items: int | None = None) -> Float[Tensor, "item d"]:
    """Features divided by their lengths, as float64 on the CPU.

    Args:
        name: what messages call them.
        n_items: how many rows there have to be.

    Raises:
        TaskError: what is no tensor of finite numbers, one row an item.
    """
    wanted = "a row for each item" if n_items is None else f"{n_items} rows, one for each item"
    expected = f"a tensor (item, d) of floating-point numbers with {wanted}"
    found = check_type(name, features, Tensor, expected=expected, error=TaskError)
    shape = tuple(found.shape)
    if len(shape) != 2 or not found.is_floating_point() or n_items not in (None, shape[0]):
        refuse(name, features, expected, TaskError)
    wide = found.detach().cpu().double()
    if not bool(wide.isfinite().all()):
        raise TaskError(f"{name} hold NaN or infinity: expected numbers; check what made them")
    largest = wide.abs().amax(dim=1, keepdim=True) if shape[1] else wide.new_zeros(shape[0], 1)
    if not bool((largest > 0).all()):
        row = int((largest[:, 0] == 0).nonzero()[0])
        raise TaskError(
            f"row {row} of {name} is zero throughout, so that no cosine is of it: expected "
            "features of each item"
        )
    scaled = wide / largest
    unit: Tensor = scaled / scaled.norm(dim=1, keepdim=True)
    return unit


def overlaps(
    many: Sequence[Float[Tensor, "item d"]] | Float[Tensor, "set item d"],
    other: Float[Tensor, "item d_other"],
    k: int,
    *,
    own: bool = False,
) -> Float[Tensor, "set item"]:
    """`neighbour_overlap` of several sets of features, of unit rows, with another.

    Args:
        own: whether an item's similarity to itself counts as 0 instead of being left out, and ties
            go as numpy's argsort, turned around, has them: what Cho et al.'s code does.
    """
    found = []
    for start in range(0, len(other), ROWS_AT_ONCE):
        rows = range(start, min(start + ROWS_AT_ONCE, len(other)))
        theirs = _among_nearest(other, rows, k, own)
        shared = [(_among_nearest(one, rows, k, own) * theirs).sum(dim=1) for one in many]
        found.append(torch.stack(shared) / k)
    return torch.cat(found, dim=1).clamp(0, 1)


def most_overlap(other: Float[Tensor, "item d"], k: int) -> float:
    """How much any features could overlap with these, mean over items: below 1 where these tie."""
    found = []
    for start in range(0, len(other), ROWS_AT_ONCE):
        rows = range(start, min(start + ROWS_AT_ONCE, len(other)))
        found.append(_among_nearest(other, rows, k, own=False).topk(k).values.sum(dim=1) / k)
    return float(torch.cat(found).mean())


def _among_nearest(
    unit: Float[Tensor, "item d"], rows: range, k: int, own: bool
) -> Float[Tensor, "row item"]:
    """The probability that each item is among the ``k`` nearest of some of them."""
    similar = unit[rows.start : rows.stop] @ unit.T
    diagonal = torch.arange(len(rows)), torch.arange(rows.start, rows.stop)
    if own:
        similar[diagonal] = 0.0
        order = similar.numpy().argsort(axis=1)[:, ::-1][:, :k]
        return torch.zeros_like(similar).scatter_(1, torch.from_numpy(order.copy()), 1.0)
    similar[diagonal] = -torch.inf
    border = similar.topk(k).values[:, -1:]
    nearer = (similar > border + TIE).double()
    level = ((similar - border).abs() <= TIE).double()
    left = k - nearer.sum(dim=1, keepdim=True)
    return nearer + level * left / level.sum(dim=1, keepdim=True)
