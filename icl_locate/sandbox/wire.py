"""Calls between two processes of which one does not trust the other. Standard library alone.

The side that runs tests gives out no more than calls of the functions that its tests pass in.
"""

import json
import os
import types
from collections import deque
from collections.abc import Iterable
from typing import Any, NoReturn

from icl_locate.sandbox.standard import GoneError
from icl_locate.sandbox.values import APPLY, HARMLESS, MUTABLE, Reference, Values

__all__ = ["GoneError", "Peer", "Reference"]
MAX_BYTES = 1 << 26
_COPIES = 256  # so many of the last are looked at


class Peer(Values):
    """One end of the line: asks the other side, and answers its requests while it waits.

    Args:
        trusting: whether the other side may do anything with what it was given; else it may call
            functions and step through iterators.
    """

    def __init__(self, read_fd: int, write_fd: int, *, trusting: bool) -> None:
        super().__init__(trusting=trusting)
        self.is_gone = False  # for good, whatever became of the error
        self.raised: BaseException | None = None  # the last error that came from the other side
        self._copies: deque[tuple[Any, Any]] = deque(maxlen=_COPIES)
        self._read_fd, self._write_fd = read_fd, write_fd

    def offer(self, number: int, value: Any) -> None:
        """Let the other side have a reference to a value from the start, under a number."""
        self._given[number] = value

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Have the other side do something; returns or raises what came of it."""
        self._send([operation, *map(self.encode, arguments)])
        while True:
            kind, *rest = self._receive()
            if kind not in ("answer", "error"):
                self._send(self._answer(kind, rest))
                continue
            passed = [*arguments[1], *arguments[2].values()] if operation == "call" else []
            try:
                if kind == "answer":
                    return self._taken(passed, *rest)
                self.raised = raised = self._error(*rest)
            except GoneError as error:
                self._lose(str(error))
            except Exception as error:
                self._lose(f"what it sent is no answer: {type(error).__name__}")
            raise raised

    def _taken(self, passed: list[Any], encoded: Any, changed: list[Any]) -> Any:
        """An answer's value, and what the call did to what was passed."""
        self._write_back(passed, changed)
        value = self.decode(encoded)
        if type(value) in MUTABLE:
            self._copies.append((value, encoded))
        return value

    def has_changed_copies(self) -> bool:
        """Whether a list, dict or set that came from the other side was changed on this one."""
        try:
            return any(self.decode(encoded) != value for value, encoded in self._copies)
        except Exception:  # what they hold now cannot even be compared
            return True

    def serve(self) -> None:
        """Answer requests until the other side is gone."""
        while True:
            kind, *rest = self._receive()
            self._send(self._answer(kind, rest))

    def _answer(self, operation: str, encoded: list[Any]) -> Any:
        try:
            if not self._trusting:
                _require_given(operation, encoded)
            arguments = [self.decode(argument) for argument in encoded]
            result = self._perform(operation, arguments)
            passed = [*arguments[1], *arguments[2].values()] if operation == "call" else []
            changed = [self.encode(a) if type(a) in MUTABLE else None for a in passed]
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
            if name in (APPLY if self._trusting else HARMLESS):
                return APPLY[name](*rest)
        self.doubts.add("the code used a function of the tests in a way that is not forwarded")
        raise TypeError(f"{operation} of this is not for the other process")

    def _write_back(self, passed: Iterable[Any], changed: list[Any]) -> None:
        """Let what a call did to its lists, dicts and sets show in the originals."""
        for original, encoded in zip(passed, changed, strict=False):
            new: Any = None if encoded is None else self.decode(encoded)
            if type(original) in MUTABLE and type(new) is type(original) and new != original:
                inside = original.values() if isinstance(original, dict) else original
                if any(type(item) in (*MUTABLE, tuple) for item in inside):
                    self.doubts.add("the code changed what a list or dict of the tests holds")
                original.clear()
                if isinstance(original, (dict, set)):
                    original.update(new)
                else:
                    original.extend(new)

    def _error(self, kind: Any, values: list[Any], text: str) -> BaseException:
        found = self.decode(kind)
        plain = all(type(value) in (str, int, float, bool) for value in values)
        if plain and isinstance(found, type) and issubclass(found, BaseException):
            try:
                return found(*values)
            except Exception:
                return RuntimeError(str(text))
        return RuntimeError(str(text))  # it shows its name and message all the same

    def _send(self, message: Any) -> None:
        data = json.dumps(message).encode()
        data = len(data).to_bytes(4, "big") + data
        try:
            while data:
                data = data[os.write(self._write_fd, data) :]
        except OSError:
            self._lose("it has ended")

    def _receive(self) -> Any:
        size = int.from_bytes(self._read(4), "big")
        if size > MAX_BYTES:
            self._lose(f"a message of {size} bytes is too long")
        try:
            message = json.loads(self._read(size))
        except (ValueError, RecursionError):
            self._lose("what it sent is no message")
        if not (isinstance(message, list) and message and isinstance(message[0], str)):
            self._lose("what it sent is no message")
        return message

    def _read(self, n: int) -> bytes:
        parts: list[bytes] = []
        while n:
            try:
                parts.append(os.read(self._read_fd, min(n, 1 << 20)))
            except OSError:
                self._lose("it has ended")
            if not parts[-1]:
                self._lose("it has ended")
            n -= len(parts[-1])
        return b"".join(parts)

    def _lose(self, why: str) -> NoReturn:
        self.is_gone = True
        raise GoneError(why)


def _require_given(operation: str, encoded: list[Any]) -> None:
    """Refuse a request that works on anything but what this side gave out.

    Raises:
        TypeError: if it does.
    """
    operand = encoded[0] if operation == "call" else encoded[1]
    if not (isinstance(operand, list) and operand[:1] == ["yours"]):
        raise TypeError(f"{operation} of this is not for the other process")
