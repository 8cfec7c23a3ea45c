"""What a function does, as JSON: its code, and all that it looks up, as far as that is its user's.

Of libraries names are enough: their versions are no part of what is described here.
"""

import dis
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

Describe = Callable[[Any], Any]
_KNOWN = frozenset(
    {
        "builtins", "icl_locate", "jaxtyping", "numpy", "pandas", "safetensors", "scipy",
        "tokenizers", "torch", "transformer_lens", "transformers",
    }
)  # fmt: skip
_MADE = frozenset(  # by the decorator: what they do, the fields say
    {
        "__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__",
        "__setattr__", "__delattr__", "__replace__", "__getstate__", "__setstate__",
    }
)  # fmt: skip
_SITE = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib", "stdlib")}
)


def describe_function(value: Any, describe: Describe, known: dict[Any, int]) -> dict[str, Any]:
    """A function or class by its name; its user's by code, closure, defaults and globals, too.

    Args:
        describe: of any other value.
        known: the functions that are described already, or being so, by the order in which they
            came: the second time the number is enough.
    """
    found: dict[str, Any] = {"function": f"{_module_name(value)}.{value.__qualname__}"}
    own = getattr(value, "__self__", None)
    key = id(own), id(getattr(value, "__func__", value))  # each look-up makes a method anew
    if key in known:
        return found | {"known": known[key]}
    known[key] = len(known)
    if own is not None and not isinstance(own, ModuleType):
        found["self"] = describe(own)
    if isinstance(value, type):
        return found | describe_class(value, describe)
    wrapped = getattr(value, "__wrapped__", None)
    if wrapped is not None:
        found["wraps"] = describe(wrapped)
    function = getattr(value, "__func__", value)
    if isinstance(function, FunctionType):
        found |= _describe_code(function, describe)
    return found


def describe_class(kind: type, describe: Describe) -> dict[str, Any]:
    """What the classes that are its user's, among those that one is made of, define."""
    code = {
        f"{one.__module__}.{one.__qualname__}": {
            name: describe(item) for name, item in _defined(one)
        }
        for one in kind.__mro__
        if is_users(one)
    }
    return {"class": code} if code else {}  # which no field can be called


def _defined(kind: type) -> Iterator[tuple[str, Any]]:
    """The functions and values that a class defines itself, but for those that are made for it."""
    for name, item in sorted(vars(kind).items()):
        if isinstance(item, property):
            for part, function in (("get", item.fget), ("set", item.fset)):
                if function is not None:
                    yield f"{name}.{part}", function
            continue
        function = item.func if isinstance(item, cached_property) else item
        function = getattr(function, "__func__", function)
        if isinstance(function, FunctionType):
            if not (name in _MADE and is_dataclass(kind) and _is_made(function)):
                yield name, function
        elif not (name.startswith(("__", "_abc")) or hasattr(item, "__get__")):
            yield name, item


def _is_made(function: FunctionType) -> bool:
    """Whether a decorator made it: its code is of no file."""
    file: str = inspect.unwrap(function).__code__.co_filename
    return file == "<string>"


def _describe_code(function: FunctionType, describe: Describe) -> dict[str, Any]:
    """A function of Python's own: its code and what that looks up."""
    code, found = function.__code__, dict[str, Any]()
    if not _is_known(function):
        found["sha256"] = sha256(_code_of(code).encode()).hexdigest()
        found |= _said("defaults", [*(function.__defaults__ or ())], describe)
        found |= _said("keywords", function.__kwdefaults__ or {}, describe)
        rest = {k: v for k, v in vars(function).items() if k != "__wrapped__"}
        found |= _said("attributes", rest, describe)
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    found |= _said("closure", {n: c.cell_contents for n, c in cells if _is_full(c)}, describe)
    if is_users(function):
        found |= _said("globals", dict(_globals_of(function, code)), describe)
    return found


def _said(name: str, values: Any, describe: Describe) -> dict[str, Any]:
    return {name: describe(values)} if values else {}


def _is_full(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a name that nothing is bound to yet
        return False
    return True


def _globals_of(function: FunctionType, code: CodeType) -> Iterator[tuple[str, Any]]:
    """What a function and those inside it look up, of their user's modules what they take."""
    there = function.__globals__
    for name in sorted(set(_names_of(code, ("LOAD_GLOBAL", "LOAD_NAME")))):
        if name not in there:  # a builtin
            continue
        value = there[name]
        if not isinstance(value, ModuleType):
            yield name, value
            continue
        yield name, {"module": value.__name__}
        if is_users(value):
            for taken in sorted(set(_names_of(code, ("LOAD_ATTR", "LOAD_METHOD")))):
                if taken in vars(value):
                    yield f"{name}.{taken}", vars(value)[taken]


def _names_of(code: CodeType, operations: tuple[str, ...]) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in operations:
            yield str(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_of(inner, operations)


def _code_of(code: CodeType) -> str:
    """Instructions, names and constants; without the addresses that a nested code's text shows."""
    return str((code.co_code.hex(), code.co_names, [_constant(c) for c in code.co_consts]))


def _constant(value: Any) -> str:
    """A constant's text, which no process orders otherwise."""
    if isinstance(value, CodeType):
        return _code_of(value)
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(_constant, value))})"
    return f"({', '.join(map(_constant, value))})" if isinstance(value, tuple) else repr(value)


def is_users(value: Any) -> bool:
    """Whether a function, class or module is neither installed nor one of Python's own."""
    return not _is_known(value) and not _is_installed(value)


def _is_known(value: Any) -> bool:
    """Whether it is of a library whose names say what it does."""
    top = _module_name(value).partition(".")[0]
    return top in _KNOWN or (top in sys.stdlib_module_names and _is_installed(value))


def _is_installed(value: Any) -> bool:
    """Whether its file lies with those of packages; those of Python's that have none do."""
    name = _module_name(value)
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return name.partition(".")[0] in sys.stdlib_module_names
    return _lies_with_packages(file)


@cache
def _lies_with_packages(file: str) -> bool:
    return str(Path(file).resolve()).startswith(_SITE)


def _module_name(value: Any) -> str:
    name = "__name__" if isinstance(value, ModuleType) else "__module__"
    return str(getattr(value, name, ""))
