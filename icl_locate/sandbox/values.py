"""How values cross from one process to another: plain data copied, all else as references.

Standard library alone. Nothing is unpickled, and no foreign ``__eq__`` ever decides.
"""

import builtins
import datetime as dt
import importlib
import operator
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

_SEQUENCES = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
_MAPPINGS = {kind.__name__: kind for kind in (dict, OrderedDict, Counter)}
_IN_TEXT = {kind.__name__: kind for kind in (Fraction, Decimal, complex)}
_DATES = {kind.__name__: kind for kind in (dt.date, dt.datetime, dt.time)}
_VIEWS: dict[str, Callable[[list[Any]], Any]] = {
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
    "dict_items": lambda items: dict(items).items(),
}
_TYPES = (
    *(int, float, complex, bool, str, bytes, bytearray),
    *(list, tuple, set, frozenset, dict, range),
)
_COLLECTIONS = {
    (kind.__module__, kind.__name__)
    for kind in (Counter, OrderedDict, defaultdict, deque, Fraction, Decimal, *_DATES.values())
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
MUTABLE = (list, dict, set, bytearray, deque, OrderedDict, Counter)
HARMLESS: dict[str, Callable[..., Any]] = {"iter": iter, "next": next}
APPLY: dict[str, Callable[..., Any]] = HARMLESS | {
    f.__name__: f
    for f in (
        *(getattr, setattr, len, bool, str, repr, isinstance),
        *(operator.getitem, operator.setitem, operator.delitem),
        *(operator.eq, operator.lt, operator.le, operator.gt, operator.ge),
        *(operator.add, operator.sub, operator.mul, operator.truediv),
    )
}


class GoneError(BaseException):
    """The other process has ended, or does not speak as expected: no test may catch it."""


@runtime_checkable
class Asks(Protocol):
    """What can have the other process do something."""

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Have it done, and return what came of it."""


class Reference:
    """A thing of the other process. Two of its things may be compared or added there.

    It never equals plain data, unless it is a subclass's instance such as a named tuple: then its
    data decides, here.
    """

    def __init__(self, peer: Asks, number: int, data: Any) -> None:
        self.__dict__.update(_peer=peer, _number=number, _data=data)

    def _ask(self, name: str, *rest: Any) -> Any:
        return self._peer.ask("apply", name, self, *rest)

    def _both(self, name: str, other: Any) -> Any:
        if isinstance(other, Reference):
            return self._ask(name, other)
        return NotImplemented if self._data is None else APPLY[name](self._data, other)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._peer.ask("call", self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        return self._ask("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("delitem", key)

    def __iter__(self) -> Any:
        return self._ask("iter")

    def __next__(self) -> Any:
        return self._ask("next")

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __bool__(self) -> bool:
        return bool(self._ask("bool"))

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __hash__(self) -> int:
        return hash(self._number) if self._data is None else hash(self._data)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Reference) and bool(
            self._peer.ask("apply", "isinstance", instance, self)
        )

    def __eq__(self, other: object) -> Any:
        return self._both("eq", other)

    def __lt__(self, other: Any) -> Any:
        return self._both("lt", other)

    def __le__(self, other: Any) -> Any:
        return self._both("le", other)

    def __gt__(self, other: Any) -> Any:
        return self._both("gt", other)

    def __ge__(self, other: Any) -> Any:
        return self._both("ge", other)

    def __add__(self, other: Any) -> Any:
        return self._both("add", other)

    def __sub__(self, other: Any) -> Any:
        return self._both("sub", other)

    def __mul__(self, other: Any) -> Any:
        return self._both("mul", other)

    def __truediv__(self, other: Any) -> Any:
        return self._both("truediv", other)


class Values:
    """The values that one end of the line has given, and knows of the other."""

    def __init__(self, *, trusting: bool) -> None:
        self._trusting = trusting
        self._given: dict[int, Any] = {}
        self._classes: dict[int, type] = {}
        sys.set_int_max_str_digits(0)

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Have the other side do something; returns or raises what came of it."""
        raise NotImplementedError

    def encode(self, value: Any) -> Any:
        """A value as JSON: a copy of plain data, else a reference."""
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is Reference and value._peer is self:
            return ["yours", value._number]
        if kind in self._classes.values():
            return ["yours", next(n for n, known in self._classes.items() if known is value)]
        name = "dict" if kind is defaultdict else kind.__name__
        if kind in _SEQUENCES.values() or name in _VIEWS:
            return [name, *map(self.encode, value)]
        if kind in (*_MAPPINGS.values(), defaultdict):
            return [name, *([self.encode(k), self.encode(v)] for k, v in value.items())]
        if kind in (bytes, bytearray):
            return [name, value.hex()]
        if kind in _IN_TEXT.values():
            return [name, str(value)]
        if kind in _DATES.values():
            return [name, value.isoformat()]
        if kind is dt.timedelta:
            return [name, value.days, value.seconds, value.microseconds]
        if kind is range:
            return [name, value.start, value.stop, value.step]
        standard = _standard_name(value)
        if standard and (_is_harmless(*standard) or not self._trusting):
            return ["standard", *standard]  # to a side that does not trust, only what it takes
        self._given[id(value)] = value
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", id(value), value.__name__, _builtin_base(value).__name__]
        return ["mine", id(value), self._data(value)]

    def decode(self, encoded: Any) -> Any:
        """What the other side's `encode` stands for."""
        if not isinstance(encoded, list):
            return encoded
        name, *rest = encoded
        if name in _SEQUENCES:
            return _SEQUENCES[name](map(self.decode, rest))
        if name in _VIEWS:
            return _VIEWS[name]([self.decode(item) for item in rest])
        if name in _MAPPINGS:
            return _MAPPINGS[name]({self.decode(k): self.decode(v) for k, v in rest})
        if name in ("bytes", "bytearray"):
            data = bytes.fromhex(rest[0])
            return data if name == "bytes" else bytearray(data)
        if name in _IN_TEXT:
            return _IN_TEXT[name](rest[0])
        if name in _DATES:
            return _DATES[name].fromisoformat(rest[0])
        if name in ("timedelta", "range"):
            return {"timedelta": dt.timedelta, "range": range}[name](*rest)
        match name:
            case "yours":
                return self._given[rest[0]]
            case "standard":
                if not (self._trusting or _is_harmless(*rest)):
                    raise GoneError(f"it sent {str(rest)[:60]}, which is not for this side")
                return _standard(*rest)
            case "exception":
                return self._exception(*rest)
            case "mine":
                return Reference(self, rest[0], self.decode(rest[1]))
        raise GoneError(f"it sent {str(name)[:40]!r}, which is no value")

    def _data(self, value: Any) -> Any:
        """The plain data of a subclass's instance, such as a named tuple."""
        bases: tuple[Any, ...] = (list, tuple, set, frozenset, dict, int, float, str)
        for base in bases:
            if isinstance(value, base):
                return self.encode(base(value))
        return None

    def _exception(self, number: int, name: str, base: str) -> type:
        """A class here that stands for an exception class there, so that tests can catch it."""
        if number not in self._classes:
            found = getattr(builtins, base, None)
            if not (isinstance(found, type) and issubclass(found, BaseException)):
                raise GoneError(f"{str(base)[:40]!r} is no exception")
            self._classes[number] = type(str(name), (found,), {})
        return self._classes[number]


def _standard_name(value: Any) -> tuple[str, str] | None:
    """Module and name of something of the standard library that both sides have."""
    module: Any = getattr(value, "__module__", None)
    name: Any = getattr(value, "__qualname__", None)
    if isinstance(value, types.ModuleType):
        module, name = value.__name__, ""
    if not (isinstance(module, str) and isinstance(name, str)):
        return None
    try:
        return (module, name) if _standard(module, name) is value else None
    except (ImportError, AttributeError, GoneError):
        return None


def _is_harmless(module: Any, name: Any) -> bool:
    """Whether a side that trusts nobody takes it: a type of plain data, an exception, a module."""
    if name == "":
        return module in _MODULES
    if module == "builtins" and isinstance(name, str):
        found = getattr(builtins, name, None)
        return isinstance(found, type) and (found in _TYPES or issubclass(found, BaseException))
    return (module, name) in _COLLECTIONS


def _standard(module: str, name: str) -> Any:
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


def _builtin_base(kind: type) -> type:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")
