"""Checks of what a result holds, whoever made it: a run, a user or a file."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from icl_locate.checks.arguments import check_count, check_items, check_number, refuse, show
from icl_locate.errors import ResultError

T = TypeVar("T")

_FLOATS = (torch.float64, torch.float32)
_INTS = (torch.int64, torch.int32)


def check_table(
    name: str,
    value: Any,
    shape: Sequence[int | None],
    *,
    whole: bool = False,
    finite: bool = True,
) -> None:
    """Refuse what is no tensor of numbers of this shape.

    Args:
        shape: as the labels say; ``None`` where any size goes.
        whole: whether it holds integers.
        finite: whether NaN and infinities are refused.
    """
    kinds = _INTS if whole else _FLOATS
    names = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
    if not isinstance(value, Tensor):
        refuse(name, value, f"a tensor of {names}", ResultError)
    found = tuple(value.shape)
    fits = len(found) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, found, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ResultError(f"{name} has the shape {found}: expected ({wanted}) from the labels")
    if value.dtype not in kinds:
        raise ResultError(f"{name} is of {value.dtype}: expected {names}; convert it")
    if finite and not whole and not bool(value.isfinite().all()):
        raise ResultError(f"{name} holds NaN or infinity: expected numbers")


def check_names(name: str, value: Any, *, distinct: bool = False) -> tuple[str, ...]:
    """Texts, at least one."""
    expected = "a list of texts, at least one" + ", each once" * distinct
    found = check_items(name, value, expected, error=ResultError)
    if not all(isinstance(text, str) for text in found) or not found:
        refuse(name, value, expected, ResultError)
    if distinct and len(set(found)) < len(found):
        refuse(name, value, expected, ResultError)
    return tuple(found)


def check_pairs(name: str, value: Any, *, of: str = "(layer, head)") -> tuple[tuple[int, int], ...]:
    """Pairs of whole numbers, of layers and heads unless said otherwise."""
    expected = f"a list of {of} pairs of whole numbers"
    pairs = [
        check_items(name, pair, expected, error=ResultError)
        for pair in check_items(name, value, expected, error=ResultError)
    ]
    if any(len(pair) != 2 for pair in pairs):
        refuse(name, value, expected, ResultError)
    return tuple(
        (
            check_count(f"{name}[{i}]", layer, least=0, error=ResultError),
            check_count(f"{name}[{i}]", head, least=0, error=ResultError),
        )
        for i, (layer, head) in enumerate(pairs)
    )


def check_recipe(value: Any) -> Mapping[str, Any]:
    """What a result says of its making: anything under names."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        refuse("provenance", value, "a mapping of names to what JSON can hold", ResultError)
    return value


def check_texts(name: str, value: Any, shape: Sequence[int]) -> None:
    """Refuse what is no nested list of texts with these lengths."""
    whole = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == shape[0]
    if not whole:
        expected = f"texts, nested as {tuple(shape)} from the labels"
        raise ResultError(f"{name} are {show(value)}: expected {expected}")
    for i, item in enumerate(value):
        if len(shape) > 1:
            check_texts(f"{name}[{i}]", item, shape[1:])
        elif not isinstance(item, str):
            raise ResultError(f"{name}[{i}] is {show(item)}: expected text")


def settle(result: object, **fields: Any) -> None:
    """Give a frozen value its checked fields."""
    for name, value in fields.items():
        object.__setattr__(result, name, value)


def made_of(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A frozen value of what a file holds: its ``__post_init__`` checks and types the fields."""
    made = kind.__new__(kind)
    settle(made, **fields)
    cast(Any, made).__post_init__()
    return made


PROGRESS = ("epoch", "step", "waited", "best", "history")
"""What a checkpoint says of a training, beside its tensors."""


def check_progress(rest: Mapping[str, Any]) -> dict[str, Any]:
    """Where a training stands: epochs, steps, epochs in vain, the best loss, and all of them."""
    expected = "a list of numbers, one for each epoch"
    history = check_items("history", rest["history"], expected, error=ResultError)
    found: dict[str, Any] = {
        name: check_count(name, rest[name], least=0, error=ResultError)
        for name in ("epoch", "step", "waited")
    }
    if len(history) != found["epoch"]:
        refuse("history", history, expected, ResultError)
    numbers = [check_number("history", loss, error=ResultError) for loss in history]
    best = check_number("best", rest["best"], error=ResultError)
    return {**found, "best": best, "history": numbers}
