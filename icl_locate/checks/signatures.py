"""Checks of whole calls: every argument against its annotation, and the bounds of its name.

A name means one thing in every function, so its bounds stand once, here. Numbers come out as plain
Python's, whatever library they are of, so that results and files can hold them.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import fields
from functools import cache, wraps
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from icl_locate.checks.arguments import (
    ErrorKind,
    check_choice,
    check_count,
    check_flag,
    check_items,
    check_number,
    check_path,
    check_seed,
    check_seeds,
    check_text,
    refuse,
)
from icl_locate.errors import IclLocateError

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[str, Any, ErrorKind], Any]
"""Takes an argument's name, what came, and the error to raise; gives what is worked with."""


def whole(least: int = 0, most: int | None = None) -> Check:
    """A whole number within its bounds."""
    return lambda name, value, error: check_count(name, value, least=least, most=most, error=error)


def number(**bounds: float | int) -> Check:
    """A finite number within ``least``, ``most``, ``above`` and ``below``."""
    return lambda name, value, error: check_number(name, value, **bounds, error=error)


def one_of(*choices: str) -> Check:
    """One of some names."""
    return lambda name, value, error: check_choice(name, value, choices, error=error)


def anything(name: str, value: Any, error: ErrorKind) -> Any:  # noqa: ARG001
    """No check here: the function itself knows better."""
    return value


MANY = 1_000_000
"""Where counts end that only cost time, such as resamples: beyond it a call would never return."""

BOUNDS: Mapping[str, Check] = {
    "batch_size": whole(1, 2**31 - 1),
    "confidence": number(above=0, below=1),
    "controls": whole(0, 10_000),
    "k": whole(1),
    "learning_rate": number(above=0),
    "max_epochs": whole(1),
    "max_new_tokens": whole(1),
    "max_output": whole(1),
    "most_queries": whole(1),
    "n": whole(1),
    "n_copies": whole(2),
    "n_dev": whole(1),
    "n_heads": whole(1, MANY),
    "n_layers": whole(1, MANY),
    "n_new_tokens": whole(1),
    "n_per_class": whole(1),
    "n_prompts": whole(1),
    "n_queries": whole(1),
    "n_resamples": whole(1, MANY),
    "n_samples": whole(0, MANY),
    "n_seeds": whole(1),
    "n_sequences": whole(1, MANY),
    "n_texts": whole(1, MANY),
    "n_train": whole(1),
    "patience": whole(1),
    "query_tokens": whole(1),
    "repeats": whole(1, MANY),
    "seed": lambda name, value, error: check_seed(name, value, error=error),
    "seeds": lambda name, value, error: check_seeds(value, name=name, error=error),
    "size": whole(1),
    "token_budget": whole(1),
    "width": whole(1),
} | dict.fromkeys(("executor", "store"), anything)
"""The bounds of arguments by name: any other whole number is 0 or more."""

KINDS: dict[Any, Check] = {}
"""The checks of classes whose own modules say more of what came instead: they enter them here."""


def checked(
    error: ErrorKind = IclLocateError, **checks: Check
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function whose arguments are checked before it begins.

    Args:
        error: what is raised for a wrong one.
        checks: by the argument's name, in place of what its annotation and `BOUNDS` say.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        found = dict(checks)  # what annotations say is looked up when it is first asked for

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:  # Python itself says what is missing, or not known
                return function(*args, **kwargs)
            for name, value in bound.arguments.items():
                parameter = signature.parameters[name]
                if name not in found:
                    found[name] = _find_check(name, parameter.annotation, function)
                if parameter.kind is parameter.VAR_POSITIONAL:
                    pairs = enumerate(value)
                    value = tuple(found[name](f"{name}[{i}]", one, error) for i, one in pairs)
                elif parameter.kind is not parameter.VAR_KEYWORD:
                    value = found[name](name, value, error)
                bound.arguments[name] = value
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def check_fields(value: object, error: ErrorKind = IclLocateError, **checks: Check) -> None:
    """Check the fields of a frozen dataclass, in its ``__post_init__``, as `checked` does."""
    kind: Any = type(value)
    for name, check in checks_of_fields(kind).items():
        taken = checks.get(name, check)(name, getattr(value, name), error)
        object.__setattr__(value, name, taken)


@cache
def checks_of_fields(kind: Any) -> Mapping[str, Check]:
    """The check of each field of a dataclass, by its annotation and its name."""
    return {
        field.name: _find_check(field.name, get_type_hints(kind)[field.name], kind.__init__)
        for field in fields(kind)
        if field.init and not field.name.startswith("_")
    }


def _find_check(name: str, annotation: Any, owner: Any) -> Check:
    """The check of an argument by its annotation, or by its name where that has bounds."""
    if annotation is inspect.Parameter.empty:
        return anything
    if isinstance(annotation, str):
        namespace = getattr(inspect.unwrap(owner), "__globals__", {})
        holder = SimpleNamespace(__annotations__={name: annotation})
        annotation = get_type_hints(holder, globalns=namespace)[name]
    return _optional(BOUNDS[name], annotation) if name in BOUNDS else _check_of(annotation)


def _optional(check: Check, annotation: Any) -> Check:
    """The check, or ``None`` where the annotation allows it."""
    if NoneType not in get_args(annotation):
        return check
    return lambda name, value, error: None if value is None else check(name, value, error)


def _check_of(annotation: Any) -> Check:
    """The check of an annotation."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in KINDS:
        return KINDS[annotation]
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin in (Union, UnionType):
        return _optional(_check_of_any([one for one in inner if one is not NoneType]), annotation)
    if origin is Literal:
        return one_of(*inner)
    if origin is tuple and inner[-1] is not ...:
        return lambda name, value, error: _take_tuple(name, value, inner, error)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return lambda name, value, error: _take_mapping(name, value, inner, error)
    if isinstance(origin, type) and hasattr(origin, "__iter__"):
        return lambda name, value, error: _take_items(name, value, origin, inner, error)
    if origin is Callable:
        return lambda name, value, error: _take_instance(name, value, Callable, error)
    if isinstance(annotation, type):
        return lambda name, value, error: _take_instance(name, value, annotation, error)
    return anything


def _check_of_any(annotations: list[Any]) -> Check:
    """The check of several annotations, of which one must take the value."""
    choices = [one for one in annotations if get_origin(one) is Literal]
    if choices:  # beside ``str``, which stands there for values that a type checker cannot know
        annotations = [one for one in annotations if one is not str]
    if {str, Path} <= {*annotations}:
        annotations = [one for one in annotations if one is not str]
    checks = [_check_of(one) for one in annotations]
    if len(checks) == 1:
        return checks[0]

    simple = [one for one in annotations if one not in KINDS and one not in _PLAIN]

    def check(name: str, value: Any, error: ErrorKind) -> Any:
        if type(value) in simple:
            return value  # spares the others' messages
        for one in checks:
            with suppress(IclLocateError):
                return one(name, value, error)
        return refuse(name, value, " or ".join(map(_say, annotations)), error)

    return check


def _take_instance(name: str, value: Any, kind: Any, error: ErrorKind) -> Any:
    try:
        fits = isinstance(value, kind)
    except Exception:  # an object that does not even tell its class
        fits = False
    if not fits:
        refuse(name, value, _say(kind), error)
    return value


def _take_items(
    name: str, value: Any, origin: type, inner: tuple[Any, ...], error: ErrorKind
) -> Any:
    """The items of a collection: as it came where nothing in it had to change."""
    ordered = issubclass(origin, Sequence) or origin is tuple
    items = check_items(name, value, _say_items(inner), ordered=ordered, error=error)
    check = _check_of(inner[0])
    taken = [check(f"{name}[{i}]", item, error) for i, item in enumerate(items)]
    if issubclass(origin, AbstractSet):
        return value if isinstance(value, AbstractSet) else frozenset(taken)
    same = all(new is old for new, old in zip(taken, items, strict=True))
    if same and isinstance(value, origin) and hasattr(value, "__len__"):
        return value
    return taken if origin is list else tuple(taken)


def _take_tuple(name: str, value: Any, inner: tuple[Any, ...], error: ErrorKind) -> Any:
    items = check_items(name, value, _say_items(inner), error=error)
    if len(items) != len(inner):
        refuse(name, value, f"{len(inner)} values", error)
    pairs = enumerate(zip(items, inner, strict=True))
    return tuple(_check_of(kind)(f"{name}[{i}]", item, error) for i, (item, kind) in pairs)


def _take_mapping(name: str, value: Any, inner: tuple[Any, ...], error: ErrorKind) -> Any:
    if not isinstance(value, Mapping):
        refuse(name, value, f"a mapping of {_say(inner[0])} to {_say(inner[1])}", error)
    keys, values = map(_check_of, inner)
    found = {
        keys(f"a key of {name}", key, error): values(f"{name}[{key!r}]", item, error)
        for key, item in value.items()
    }
    same = len(found) == len(value) and all(found.get(key) is item for key, item in value.items())
    return value if same else found


_PLAIN: Mapping[Any, Check] = {
    Any: anything,
    bool: lambda name, value, error: check_flag(name, value, error=error),
    int: whole(0),
    float: number(),
    str: lambda name, value, error: check_text(name, value, error=error),
    Path: lambda name, value, error: check_path(name, value, error=error),
}
_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def _say(annotation: Any) -> str:
    """An annotation in words."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    if annotation is Path:
        return "a path"
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if annotation is Callable or get_origin(annotation) is Callable:
        return "a function"
    if inner:
        return _say_items(inner)
    dims = getattr(annotation, "dim_str", None)
    if dims is not None:
        return f"a {annotation.array_type.__name__} ({', '.join(dims.split())})"
    name = str(getattr(annotation, "__name__", annotation))
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def _say_items(inner: tuple[Any, ...]) -> str:
    return f"a list, each item of it {_say(inner[0])}"
