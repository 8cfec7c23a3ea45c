"""Calls between two processes of which one does not trust the other. Standard library alone.

Plain data is copied, as JSON; anything else stays where it is and travels as a reference. So the
side that runs tests unpickles nothing, never compares by a foreign ``__eq__``, and gives out no
more than calls of the functions that its tests pass in.
"""

import builtins
import datetime as dt
import importlib
import json
import operator
import os
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_BYTES = 1 << 26
_SEQUENCES = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
_MAPPINGS = {kind.__name__: kind for kind in (dict, OrderedDict, Counter)}
_IN_TEXT = {kind.__name__: kind for kind in (Fraction, Decimal, complex)}
_DATES = {kind.__name__: kind for kind in (dt.date, dt.datetime, dt.time)}
_MUTABLE = (list, dict, set, bytearray, deque, OrderedDict, Counter)
_HARMLESS: dict[str, Callable[..., Any]] = {"iter": iter, "next": next}
_APPLY: dict[str, Callable[..., Any]] = _HARMLESS | {
    f.__name__: f
    for f in (
        *(getattr, setattr, len, bool, str, repr, isinstance),
        *(operator.getitem, operator.setitem, operator.delitem),
        *(operator.eq, operator.lt, operator.le, operator.gt, operator.ge),
        *(operator.add, operator.sub, operator.mul, operator.truediv),
    )
}


class GoneError(Exception):
    """The other process has ended, or does not speak as expected."""


class Reference:
    """A thing of the other process. Two of its things may be compared or added there.

    It never equals plain data, unless it is a subclass's instance such as a named tuple: then its
    data decides, here.
    """

    def __init__(self, peer: "Peer", number: int, data: Any) -> None:
        self.__dict__.update(_peer=peer, _number=number, _data=data)

    def _ask(self, name: str, *rest: Any) -> Any:
        return self._peer.ask("apply", name, self, *rest)

    def _both(self, name: str, other: Any) -> Any:
        if isinstance(other, Reference):
            return self._ask(name, other)
        return NotImplemented if self._data is None else _APPLY[name](self._data, other)

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


class Peer:
    """One end of the line: asks the other side, and answers its requests while it waits.

    Args:
        trusting: whether the other side may do anything with what it was given; else it may call
            functions and step through iterators.
    """

    def __init__(self, read_fd: int, write_fd: int, *, trusting: bool) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._trusting = trusting
        self._given: dict[int, Any] = {}
        self._classes: dict[int, type] = {}
        sys.set_int_max_str_digits(0)

    def offer(self, number: int, value: Any) -> None:
        """Let the other side have a reference to a value from the start, under a number."""
        self._given[number] = value

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Have the other side do something; returns or raises what came of it."""
        self._send([operation, *map(self.encode, arguments)])
        while True:
            kind, *rest = self._receive()
            if kind == "answer":
                if operation == "call":
                    self._write_back(arguments[1], rest[1])
                return self.decode(rest[0])
            if kind == "error":
                raise self._error(*rest)
            self._send(self._answer(kind, rest))

    def serve(self) -> None:
        """Answer requests until the other side is gone."""
        while True:
            kind, *rest = self._receive()
            self._send(self._answer(kind, rest))

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
        if kind in _SEQUENCES.values():
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
        if standard:
            return ["standard", *standard]
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

    def _answer(self, operation: str, encoded: list[Any]) -> Any:
        try:
            arguments = [self.decode(argument) for argument in encoded]
            result = self._perform(operation, arguments)
            passed = arguments[1] if operation == "call" else ()
            changed = [self.encode(a) if type(a) in _MUTABLE else None for a in passed]
            return ["answer", self.encode(result), changed]
        except GoneError:
            raise
        except BaseException as error:
            kind = type(error)
            values = [a if type(a) in (str, int, float, bool) else str(a) for a in error.args]
            return ["error", self.encode(kind), values, f"{kind.__name__}: {error}"[:2000]]

    def _perform(self, operation: str, arguments: list[Any]) -> Any:
        if operation == "call":
            target, passed, named = arguments
            if self._trusting or isinstance(target, (types.FunctionType, types.BuiltinMethodType)):
                return target(*passed, **named)
        elif operation == "apply":
            name, *rest = arguments
            if name in (_APPLY if self._trusting else _HARMLESS):
                return _APPLY[name](*rest)
        raise TypeError(f"{operation} of this is not for the other process")

    def _write_back(self, passed: Any, changed: list[Any]) -> None:
        """Let what a call did to its lists, dicts and sets show in the originals."""
        for original, encoded in zip(passed, changed, strict=False):
            new: Any = None if encoded is None else self.decode(encoded)
            if type(original) in _MUTABLE and type(new) is type(original) and new != original:
                original.clear()
                if isinstance(original, (dict, set)):
                    original.update(new)
                else:
                    original.extend(new)

    def _error(self, kind: Any, values: list[Any], text: str) -> BaseException:
        found = self.decode(kind)
        try:
            error = found(*values)
        except Exception:
            return RuntimeError(str(text))  # it shows its name and message all the same
        return error if isinstance(error, BaseException) else RuntimeError(str(text))

    def _exception(self, number: int, name: str, base: str) -> type:
        """A class here that stands for an exception class there, so that tests can catch it."""
        if number not in self._classes:
            found = getattr(builtins, base, None)
            if not (isinstance(found, type) and issubclass(found, BaseException)):
                raise GoneError(f"{str(base)[:40]!r} is no exception")
            self._classes[number] = type(str(name), (found,), {})
        return self._classes[number]

    def _send(self, message: Any) -> None:
        data = json.dumps(message).encode()
        data = len(data).to_bytes(4, "big") + data
        try:
            while data:
                data = data[os.write(self._write_fd, data) :]
        except OSError as error:
            raise GoneError("it has ended") from error

    def _receive(self) -> Any:
        size = int.from_bytes(self._read(4), "big")
        if size > MAX_BYTES:
            raise GoneError(f"a message of {size} bytes is too long")
        try:
            message = json.loads(self._read(size))
        except (ValueError, RecursionError) as error:
            raise GoneError("what it sent is no message") from error
        if not (isinstance(message, list) and message):
            raise GoneError("what it sent is no message")
        return message

    def _read(self, n: int) -> bytes:
        parts: list[bytes] = []
        while n:
            try:
                parts.append(os.read(self._read_fd, min(n, 1 << 20)))
            except OSError as error:
                raise GoneError("it has ended") from error
            if not parts[-1]:
                raise GoneError("it has ended")
            n -= len(parts[-1])
        return b"".join(parts)


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
