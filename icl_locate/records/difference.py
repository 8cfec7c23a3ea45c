"""What sets one saved file apart from another: tensors bit by bit, and the rest leaf by leaf."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl_locate.checks.reprs import short_repr
from icl_locate.records.checkpoint import load_any

UNSAID = "(not said)"
"""Stands for a leaf that the other file has, and this one has not."""

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class TensorDifference:
    """Two tensors of one name that are not bit-equal.

    Attributes:
        largest: difference of two numbers in one place, infinite where one alone is NaN; ``None``
            if they cannot be laid on one another.
        n_different: places whose bits differ, of ``n_places``.
        shapes: what each is, in words; "(not said)" where a file has none of that name.
    """

    name: str
    shapes: tuple[str, str]
    largest: float | None = None
    n_different: int = 0
    n_places: int = 0


@short_repr("forms", "tensors", "n_tensors", "n_texts")
@dataclass(frozen=True)
class FileDifference:
    """What sets two files apart.

    Attributes:
        forms: what each says that it holds.
        tensors: those that are not bit-equal; ``n_tensors`` were compared.
        leaves: every leaf of the rest that differs, by its path, such as
            ``("provenance", "versions", "torch")``; ``paths`` are those of all leaves.
        n_texts: leaves that are texts of the model's, in either file.
    """

    forms: tuple[str, str]
    tensors: tuple[TensorDifference, ...]
    n_tensors: int
    leaves: Mapping[tuple[str, ...], Pair]
    paths: frozenset[tuple[str, ...]]
    n_texts: int


def compare_files(first: Path, second: Path) -> FileDifference:
    """What sets apart two files that `Saved.save` or another of our writers wrote.

    Raises:
        ResultError: if one is missing or damaged.
    """
    (form, tensors, rest), (other_form, others, other_rest) = map(load_any, (first, second))
    names = list(dict.fromkeys([*tensors, *others]))
    compared = (_compare(name, tensors.get(name), others.get(name)) for name in names)
    ours, theirs = dict(leaves_of(rest)), dict(leaves_of(other_rest))
    paths = list(dict.fromkeys([*ours, *theirs]))
    pairs = {path: (ours.get(path, UNSAID), theirs.get(path, UNSAID)) for path in paths}
    return FileDifference(
        forms=(form, other_form),
        tensors=tuple(one for one in compared if one is not None),
        n_tensors=len(names),
        leaves={path: pair for path, pair in pairs.items() if not _is_equal(*pair)},
        paths=frozenset(pairs),
        n_texts=sum(map(is_answer, pairs)),
    )


def is_answer(path: tuple[str, ...]) -> bool:
    """Whether a leaf of a result is a text that the model wrote."""
    return path[:1] == ("texts",)


def leaves_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of what JSON holds, by path; an empty list or object is a leaf itself.

    >>> dict(leaves_of({"a": [1, {"b": None}], "c": []}))
    {('a', '0'): 1, ('a', '1', 'b'): None, ('c',): []}
    """
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    if not items or not value:
        yield path, value
    else:
        for name, item in items:
            yield from leaves_of(item, (*path, str(name)))


def _is_equal(first: Any, second: Any) -> bool:
    """Equal in type, too: for Python 1 is 1.0 and True."""
    return type(first) is type(second) and bool(first == second)


def _compare(name: str, first: Tensor | None, second: Tensor | None) -> TensorDifference | None:
    """What sets two tensors apart; ``None`` if nothing does."""
    shapes = _say(first), _say(second)
    if first is None or second is None or shapes[0] != shapes[1]:
        return TensorDifference(name, shapes)
    differ = _bits(first) != _bits(second)
    n_different = int(differ.any(dim=-1).sum())
    if not n_different:
        return None
    ours, theirs = first.double(), second.double()
    apart = (ours - theirs).abs()
    apart[(ours == theirs) | (ours.isnan() & theirs.isnan())] = 0.0
    apart[apart.isnan()] = torch.inf
    largest = float(apart.max())
    return TensorDifference(name, shapes, largest, n_different, first.numel())


def _bits(tensor: Tensor) -> Tensor:
    """Each number's bytes as a row."""
    flat = tensor.contiguous().reshape(-1, 1)
    return flat.view(torch.uint8)


def _say(tensor: Tensor | None) -> str:
    if tensor is None:
        return UNSAID
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
