"""How values cross from one process to another: plain data copied, all else as references.

Standard library alone. Nothing is unpickled, and no foreign ``__eq__`` ever decides.
"""

import builtins
import datetime as dt
import operator
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import BuiltinFunctionType, FunctionType
from typing import Any, NoReturn, Protocol, runtime_checkable

from icl_locate.sandbox.standard import GoneError, is_harmless, standard, standard_name

_SEQUENCES = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
_MAPPINGS = {kind.__name__: kind for kind in (dict, OrderedDict, Counter)}
_IN_TEXT = {kind.__name__: kind for kind in (Fraction, Decimal, complex)}
_DATES = {kind.__name__: kind for kind in (dt.date, dt.datetime, dt.time)}
_VIEWS: dict[str, Callable[[list[Any]], Any]] = {
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
    "dict_items": lambda items: dict(items).items(),
}
_SINGLETONS = {"Ellipsis": ..., "NotImplemented": NotImplemented}
_BYTES = {kind.__name__: kind for kind in (bytes, bytearray, memoryview)}
_DATA = (
    *(int, float, str, dt.timedelta, range),
    *(kind for some in (_SEQUENCES, _MAPPINGS, _IN_TEXT, _DATES, _BYTES) for kind in some.values()),
)
_FUNCTIONS = (FunctionType, BuiltinFunctionType)
MUTABLE = (list, dict, set, bytearray, deque, OrderedDict, Counter, defaultdict)
HARMLESS: dict[str, Callable[..., Any]] = {"iter": iter, "next": next}
APPLY: dict[str, Callable[..., Any]] = HARMLESS | {
    f.__name__: f
    for f in (
        *(getattr, setattr, len, bool, str, repr, hash, isinstance),
        *(operator.getitem, operator.setitem, operator.delitem),
        *(operator.eq, operator.lt, operator.le, operator.gt, operator.ge),
        *(operator.add, operator.sub, operator.mul, operator.truediv),
    )
}


@runtime_checkable
class Asks(Protocol):
    """What can have the other process do something, and notes what was asked of its things."""

    expected_data: bool

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Have it done, and return what came of it."""


def _operator(name: str) -> Callable[[Any, Any], Any]:
    """An operator of a reference."""
    return lambda self, other: self._both(name, other)


class Reference:
    """A thing of the other process. Two of its things may be compared or added there.

    It never equals plain data, unless it is a subclass's instance such as a named tuple: then its
    data decides, here. What is not written down here is not forwarded.
    """

    __slots__ = ("_data", "_number", "_peer")

    def __init__(self, peer: Asks, number: int, data: Any) -> None:
        for name, value in (("_peer", peer), ("_number", number), ("_data", data)):
            object.__setattr__(self, name, value)

    @property  # type: ignore[misc] # read-only, unlike object's
    def __class__(self) -> Any:
        return self._ask("getattr", "__class__") if self._data is None else type(self._data)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a thing of another process cannot be copied")

    def __contains__(self, item: Any) -> bool:
        if self._data is None:
            raise TypeError("a thing of another process is not searched")
        return item in self._data

    def _ask(self, name: str, *rest: Any) -> Any:
        return self._peer.ask("apply", name, self, *rest)

    def _both(self, name: str, other: Any) -> Any:
        if isinstance(other, Reference):
            return self._ask(name, other)
        if self._data is None and isinstance(other, _DATA) and name == "eq":
            self._peer.expected_data = True
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
        return int(self._ask("hash")) if self._data is None else hash(self._data)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Reference) and bool(
            self._peer.ask("apply", "isinstance", instance, self)
        )

    def __eq__(self, other: object) -> Any:
        return self._both("eq", other)

    def __ne__(self, other: object) -> Any:
        if self._data is None and not isinstance(other, Reference):
            return True  # which is no hope for plain data, as an equality is
        return not self._both("eq", other)

    __lt__, __le__, __gt__, __ge__ = map(_operator, ("lt", "le", "gt", "ge"))
    __add__, __sub__, __mul__ = map(_operator, ("add", "sub", "mul"))
    __truediv__ = _operator("truediv")


class Values:
    """The values that one end of the line has given, and knows of the other.

    Attributes:
        has_objects: whether it was given a thing that is neither plain data nor a function.
        expected_data: whether such a thing was compared with plain data, which it never equals.
        doubts: what may look otherwise from here than it would in one process.
    """

    def __init__(self, *, trusting: bool) -> None:
        self.has_objects = self.expected_data = False
        self.doubts: set[str] = set()
        self._trusting = trusting
        self._given: dict[int, Any] = {}
        self._known: dict[int, Reference] = {}
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
        name = kind.__name__
        if kind in _SEQUENCES.values() or name in _VIEWS:
            return [name, *map(self.encode, value)]
        if kind in _MAPPINGS.values():
            return [name, *([self.encode(k), self.encode(v)] for k, v in value.items())]
        if kind is defaultdict:
            return [name, self.encode(value.default_factory), self.encode(dict(value))]
        if kind in _BYTES.values():
            return [name, bytes(value).hex()]
        if kind in _IN_TEXT.values():
            return [name, str(value)]
        if kind in _DATES.values():
            return [name, value.isoformat()]
        if kind is dt.timedelta:
            return [name, value.days, value.seconds, value.microseconds]
        if kind in (range, slice):
            return [name, *map(self.encode, (value.start, value.stop, value.step))]
        if value is Ellipsis or value is NotImplemented:
            return ["singleton", str(value)]
        return self._reference(value)

    def _reference(self, value: Any) -> list[Any]:
        known = next((n for n, found in self._classes.items() if found is value), None)
        if known is not None:
            return ["yours", known]
        named = standard_name(value)
        if named and (is_harmless(*named) or not self._trusting):
            return ["standard", *named]  # to a side that does not trust, only what it takes
        self._given[id(value)] = value
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", id(value), value.__name__, _builtin_base(value).__name__]
        is_function = isinstance(value, _FUNCTIONS)
        if not is_function:
            self.doubts.add("an object of the tests went to the code")
        return ["mine", id(value), self._data(value), is_function]

    def decode(self, encoded: Any) -> Any:
        """What the other side's `encode` stands for."""
        if not isinstance(encoded, list):
            if isinstance(encoded, dict):
                raise GoneError("it sent a JSON object, which is no value")
            return encoded
        name, *rest = encoded
        if name in _SEQUENCES:
            return _SEQUENCES[name](map(self.decode, rest))
        if name in _VIEWS:
            return _VIEWS[name]([self.decode(item) for item in rest])
        if name in _MAPPINGS:
            return _MAPPINGS[name]({self.decode(k): self.decode(v) for k, v in rest})
        if name in _BYTES:
            return _BYTES[name](bytes.fromhex(rest[0]))
        if name in _IN_TEXT:
            return _IN_TEXT[name](rest[0])
        if name in _DATES:
            return _DATES[name].fromisoformat(rest[0])
        match name:
            case "defaultdict":
                return defaultdict(*map(self.decode, rest))
            case "timedelta":
                return dt.timedelta(*rest)
            case "range":
                return range(*rest)
            case "slice":
                return slice(*map(self.decode, rest))
            case "singleton":
                return _SINGLETONS[rest[0]]
            case "yours":
                return self._given[rest[0]]
            case "standard":
                if not (self._trusting or is_harmless(*rest)):
                    raise GoneError(f"it sent {str(rest)[:60]}, which is not for this side")
                return standard(*rest)
            case "exception":
                return self._exception(*rest)
            case "mine":
                return self._thing(*rest)
        raise GoneError(f"it sent {str(name)[:40]!r}, which is no value")

    def _thing(self, number: int, data: Any, is_function: bool) -> Reference:
        """The reference to a thing of the other side: one for each, so that ``is`` holds."""
        self.has_objects |= not is_function
        known = self._known.setdefault(number, Reference(self, number, None))
        object.__setattr__(known, "_data", self.decode(data))
        return known

    def _data(self, value: Any) -> Any:
        """The plain data of a subclass's instance, such as a named tuple."""
        bases: tuple[Any, ...] = (list, tuple, set, frozenset, dict, int, float, str)
        for base in bases:
            if isinstance(value, base):
                return self.encode(base(value))
        return None

    def _exception(self, number: int, name: str, base: str) -> type:
        """A class here that stands for an exception class there, so that tests can catch it."""
        self.has_objects = True
        if number not in self._classes:
            found = getattr(builtins, base, None)
            if not (isinstance(found, type) and issubclass(found, BaseException)):
                raise GoneError(f"{str(base)[:40]!r} is no exception")
            self._classes[number] = type(str(name), (found,), {})
        return self._classes[number]


def _builtin_base(kind: type) -> type:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")
