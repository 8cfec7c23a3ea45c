"""What both processes have by name: things of the standard library. It alone is used here."""

import builtins
import datetime as dt
import importlib
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

_TYPES = (
    *(int, float, complex, bool, str, bytes, bytearray),
    *(list, tuple, set, frozenset, dict, range),
)
_COLLECTIONS = {
    (kind.__module__, kind.__name__)
    for kind in (
        *(Counter, OrderedDict, defaultdict, deque),
        *(Fraction, Decimal, dt.date, dt.datetime, dt.time),
    )
}
_MODULES = frozenset(
    [
        "math",
        "cmath",
        "statistics",
        "itertools",
        "functools",
        "collections",
        "re",
        "string",
        "random",
        "datetime",
        "decimal",
        "fractions",
        "typing",
        "copy",
        "heapq",
        "bisect",
        "json",
    ]
)


class GoneError(BaseException):
    """The other process has ended, or does not speak as expected: no test may catch it."""


def standard_name(value: Any) -> tuple[str, str] | None:
    """Module and name of something of the standard library that both sides have."""
    module: Any = getattr(value, "__module__", None)
    name: Any = getattr(value, "__qualname__", None)
    if isinstance(value, types.ModuleType):
        module, name = value.__name__, ""
    if not (isinstance(module, str) and isinstance(name, str)):
        return None
    try:
        return (module, name) if standard(module, name) is value else None
    except (ImportError, AttributeError, GoneError):
        return None


def is_harmless(module: Any, name: Any) -> bool:
    """Whether a side that trusts nobody takes it: a type of plain data, an exception, a module."""
    if name == "":
        return module in _MODULES
    if module == "builtins" and isinstance(name, str):
        found = getattr(builtins, name, None)
        return isinstance(found, type) and (found in _TYPES or issubclass(found, BaseException))
    return (module, name) in _COLLECTIONS


def standard(module: str, name: str) -> Any:
    """What a module of the standard library calls so."""
    if module.partition(".")[0] not in sys.stdlib_module_names:
        raise GoneError(f"{str(module)[:40]!r} is not of the standard library")
    found = importlib.import_module(module)
    for part in name.split(".") if name else ():
        found = getattr(found, part)
    if not isinstance(
        found, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
    ):
        raise GoneError(
            f"{name[:40]!r} is an instance"
        )  # such as mock.ANY, which equals everything
    return found
