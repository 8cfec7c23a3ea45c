"""Checks of what users pass: the value in the form that the package works with, or our own error.

Every message names the argument, says what came and what was expected. Python's ``bool`` counts as
no number here: ``n_shots=True`` is a mistake, whatever Python says of it.
"""

import math
import os
import reprlib
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import IntEnum
from operator import index
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from icl_locate.errors import IclLocateError

T = TypeVar("T")
Member = TypeVar("Member", bound=IntEnum)
ErrorKind = type[IclLocateError]

LAST_SEED = 2**32 - 1
"""Every generator that takes a seed takes these."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def show(value: object) -> str:
    """A value as a message shows it: short, whatever it is.

    >>> show("3"), show(float), show(list(range(100)))
    ("'3'", 'float', '[0, 1, 2, 3, 4, 5, ...]')
    """
    if isinstance(value, type):
        return value.__name__
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    try:
        text = _short.repr(value)
    except Exception:
        text = "\n"
    return f"a {type(value).__name__}" if "\n" in text else text


def refuse(
    name: str, value: object, expected: str, error: ErrorKind = IclLocateError, hint: str = ""
) -> NoReturn:
    """Raise the error that says what came and what was expected.

    Args:
        hint: what to do about it, where that is more than to pass what was expected.
    """
    raise error(f"{name} is {show(value)}: expected {expected}{hint and '; '}{hint}")


def check_count(
    name: str,
    value: Any,
    *,
    least: int = 1,
    most: int | None = None,
    error: ErrorKind = IclLocateError,
) -> int:
    """A whole number in ``least .. most``, of Python, numpy or torch.

    >>> check_count("n_shots", 5, least=0)
    5
    >>> check_count("n_shots", "5", least=0)
    Traceback (most recent call last):
    icl_locate.errors.IclLocateError: n_shots is '5': expected a whole number of at least 0
    """
    expected = f"a whole number {_between(least, most)}"
    if isinstance(value, bool) or _is_flag(value):
        refuse(name, value, expected, error)
    try:
        number = index(value)
    except (TypeError, ValueError, RuntimeError):
        refuse(name, value, expected, error)
    if number < least or (most is not None and number > most):
        refuse(name, value, expected, error)
    return number


def check_number(
    name: str,
    value: Any,
    *,
    least: float | int | None = None,
    most: float | int | None = None,
    above: float | int | None = None,
    below: float | int | None = None,
    error: ErrorKind = IclLocateError,
) -> float:
    """A finite number within its bounds: ``least`` and ``most`` belong to them, the others not."""
    limits = [
        text
        for bound, text in (
            (least, f"at least {least:g}" if least is not None else ""),
            (above, f"above {above:g}" if above is not None else ""),
            (most, f"at most {most:g}" if most is not None else ""),
            (below, f"below {below:g}" if below is not None else ""),
        )
        if bound is not None
    ]
    expected = " ".join(["a number", " and ".join(limits)]).strip()
    if isinstance(value, (bool, str, bytes)) or getattr(value, "shape", ()) != ():
        refuse(name, value, expected, error)
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        refuse(name, value, expected, error)
    outside = (
        not math.isfinite(number)
        or (least is not None and number < least)
        or (most is not None and number > most)
        or (above is not None and number <= above)
        or (below is not None and number >= below)
    )
    if outside:
        refuse(name, value, expected, error)
    return number


def check_flag(name: str, value: Any, *, error: ErrorKind = IclLocateError) -> bool:
    """True or False, of Python or numpy."""
    if isinstance(value, bool) or (getattr(value, "shape", None) == () and _is_flag(value)):
        return bool(value)
    refuse(name, value, "True or False", error)


def check_text(name: str, value: Any, *, error: ErrorKind = IclLocateError) -> str:
    """A string that UTF-8 can hold: files, digests and tokenizers all ask for that."""
    if not isinstance(value, str):
        refuse(name, value, "text", error)
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(name, value, "text without lone surrogates (half of a character pair)", error)
    return value


def check_path(name: str, value: Any, *, error: ErrorKind = IclLocateError) -> str | Path:
    """Text or a path that a file system could hold; whether it does is another question."""
    expected = "a path, as text or a pathlib.Path"
    if not isinstance(value, (str, Path)) or not str(value):
        refuse(name, value, expected, error)
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        refuse(name, value, f"{expected}, without lone surrogates", error)
    if b"\0" in encoded:
        refuse(name, value, f"{expected}, without NUL", error)
    return value


def check_choice(
    name: str, value: Any, choices: Collection[str], *, error: ErrorKind = IclLocateError
) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in choices:
        refuse(name, value, f"one of {', '.join(map(repr, choices))}", error)
    return value


def check_member(
    name: str,
    value: Any,
    kind: type[Member],
    expected: str,
    *,
    error: ErrorKind = IclLocateError,
) -> Member:
    """A member of an enumeration: itself, its name in any case, or its number.

    Args:
        expected: what the argument should be, such as "one of BOS, QUERY".
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, str):
        if value.upper() in kind.__members__:
            return kind[value.upper()]
        refuse(name, value, expected, error)
    try:
        return kind(check_count(name, value, least=0, most=max(kind), error=error))
    except ValueError:  # ours is one, too
        refuse(name, value, expected, error)


def check_type(
    name: str,
    value: Any,
    kind: type[T],
    *,
    expected: str = "",
    hint: str = "",
    error: ErrorKind = IclLocateError,
) -> T:
    """A value of one of our types.

    Args:
        expected: how to name it; by default by its class.
    """
    if not isinstance(value, kind):
        refuse(name, value, expected or f"a {kind.__name__}", error, hint)
    return value


def check_items(
    name: str,
    value: Any,
    expected: str,
    *,
    ordered: bool = False,
    error: ErrorKind = IclLocateError,
) -> list[Any]:
    """The items of an iterable that is no string or mapping, each looked at once.

    Args:
        expected: what the argument should be, such as "a list of seeds".
        ordered: whether a set, whose order changes from run to run, is refused.
    """
    unfit: tuple[type, ...] = (str, bytes, bytearray, Mapping, *([AbstractSet] if ordered else []))
    if isinstance(value, unfit) or not isinstance(value, Iterable):
        refuse(name, value, expected, error)
    try:
        return list(value)
    except TypeError:  # such as a tensor without dimensions
        refuse(name, value, expected, error)


def check_seed(name: str, value: Any, *, error: ErrorKind = IclLocateError) -> int:
    """A seed that every generator takes."""
    return check_count(name, value, least=0, most=LAST_SEED, error=error)


def check_seeds(
    value: Any, *, name: str = "seeds", error: ErrorKind = IclLocateError
) -> tuple[int, ...]:
    """Seeds as plain integers: a single one or several, each once, at least one.

    >>> check_seeds(0), check_seeds([0, 1])
    ((0,), (0, 1))
    """
    return check_counts(name, value, least=0, most=LAST_SEED, error=error)


def check_counts(
    name: str,
    value: Any,
    *,
    least: int = 1,
    most: int | None = None,
    ascending: bool = False,
    error: ErrorKind = IclLocateError,
) -> tuple[int, ...]:
    """Whole numbers: a single one or several, each once, at least one; ``ascending`` if asked."""
    expected = "a whole number, or a list of them, each once" + ", ascending" * ascending
    numbers = tuple(
        check_count(called, one, least=least, most=most, error=error)
        for called, one in _one_or_more(name, value, expected, error)
    )
    wanted = sorted(set(numbers))
    if not numbers or (list(numbers) if ascending else sorted(numbers)) != wanted:
        refuse(name, value, expected, error)
    return numbers


def check_shares(
    name: str, value: Any, *, least: int = 1, error: ErrorKind = IclLocateError
) -> tuple[float, ...]:
    """Shares above 0, at most 1: a single one or several, each once, at least so many."""
    expected = "a share above 0, at most 1, or a list of them, each once"
    shares = tuple(
        check_number(called, one, above=0.0, most=1.0, error=error)
        for called, one in _one_or_more(name, value, expected, error)
    )
    if len(shares) < least or len(set(shares)) < len(shares):
        refuse(name, value, expected, error)
    return shares


def _one_or_more(name: str, value: Any, expected: str, error: ErrorKind) -> list[tuple[str, Any]]:
    """A number that stands alone, or the items of a list, each with what a message calls it."""
    if getattr(value, "shape", ()) == () and hasattr(value, "__float__"):
        return [(name, value)]
    items = check_items(name, value, expected, error=error)
    return [(f"{name}[{i}]", item) for i, item in enumerate(items)]


def _is_flag(value: Any) -> bool:
    return str(getattr(value, "dtype", "")).removeprefix("torch.") == "bool"


def _between(least: int, most: int | None) -> str:
    return f"of at least {least}" if most is None else f"from {least} to {most}"
