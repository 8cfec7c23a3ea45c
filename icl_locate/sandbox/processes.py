"""One run of code and its tests, as the process sees it that asked for it."""

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, get_args

from icl_locate.errors import SandboxError
from icl_locate.sandbox.disk import is_over, remove

Wall = Literal["sealed", "shared"]
Status = Literal["passed", "failed", "error", "unjudged", "exited", "timeout", "output", "disk"]

_HERE = Path(__file__).parent
_GRACE = 60.0  # seconds: for the sandbox to stand, and for what it wrote to be removed
_LOOK_EVERY = 0.1  # seconds between looks at the disk
_DISK_BYTES = 1 << 26
_VERDICT_BYTES = 1 << 16
# The package without its `__init__`, which would load what the sandbox has not.
_BOOT = """
import sys, types
for name, folder in zip(("icl_locate", "icl_locate.sandbox"), sys.argv[1:3]):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from icl_locate.sandbox.keeper import main
main(sys.argv[3:])
"""


@dataclass(frozen=True)
class Verdict:
    """What one run showed: its status, what was printed with the error's message, what held it."""

    status: Status
    output: str
    protection: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """What is run, and its limits, as `run_python` takes them."""

    code: str
    tests: str
    entry_point: str
    timeout: float
    memory: int
    max_output: int


def run_once(task: Task, wall: Wall) -> Verdict:
    """Run code and tests in processes of their own.

    Raises:
        SandboxError: if these could not be set up.
    """
    try:
        with tempfile.TemporaryFile() as given:  # without a name: nothing of it can be left
            given.write(json.dumps([task.code, task.tests, task.entry_point]).encode())
            given.seek(0)
            with _Processes(task, wall, given) as running:
                return running.watch()
    except OSError as error:
        raise SandboxError(f"the sandbox cannot be set up: {error}") from error


class _Processes:
    """The keeper of a run, and the pipes from it and to it."""

    def __init__(self, task: Task, wall: Wall, given: IO[bytes]) -> None:
        self._task = task
        self._home = Path(tempfile.gettempdir(), f"icl_sandbox_{secrets.token_hex(8)}")
        self._next_look = 0.0
        self._ended_by = 0
        self._received = {name: bytearray() for name in ("verdict", "report", "output")}
        lifeline, fate, verdict, report, output = (os.pipe() for _ in range(5))
        self._lifeline, self._fate = lifeline[1], fate[0]
        self._read = {"verdict": verdict[0], "report": report[0], "output": output[0]}
        theirs = [lifeline[0], fate[1], given.fileno(), verdict[1], report[1]]
        limits = [str(task.timeout), str(task.memory)]
        command = [sys.executable, "-I", "-S", "-B", "-u", "-c", _BOOT, str(_HERE.parent)]
        command += [str(_HERE), wall, str(self._home), *limits, *map(str, theirs)]
        try:
            self._keeper = subprocess.Popen(  # noqa: S603 - our own
                command,
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output[1],
                stderr=output[1],
                pass_fds=theirs,
                start_new_session=True,
            )
        except OSError:
            for descriptor in (self._lifeline, self._fate, *self._read.values()):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (lifeline[0], fate[1], verdict[1], report[1], output[1]):
                os.close(descriptor)

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()
        for descriptor in self._read.values():
            os.close(descriptor)

    def watch(self) -> Verdict:
        """Wait for the verdict, or for a limit. The time runs from when the sandbox stands."""
        received = self._received
        status: Status | None = None
        deadline = time.monotonic() + _GRACE
        stands = False
        with selectors.DefaultSelector() as selector:
            for name, descriptor in self._read.items():
                selector.register(descriptor, selectors.EVENT_READ, name)
            while status is None and self._read["verdict"] in selector.get_map():
                for key, _ in selector.select(_LOOK_EVERY):
                    some = os.read(key.fd, 1 << 16)
                    received[key.data] += some
                    if not some:
                        selector.unregister(key.fd)
                if received["report"] and not stands:
                    stands, deadline = True, time.monotonic() + self._task.timeout
                status = self._limit(deadline)
        self._end()
        self._drain()
        return self._verdict(status)

    def _limit(self, deadline: float) -> Status | None:
        """The limit that is passed, if one is."""
        said = max(len(self._received["verdict"]), len(self._received["report"]))
        if len(self._received["output"]) > self._task.max_output or said > _VERDICT_BYTES:
            return "output"
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_EVERY
            if is_over(self._home, _DISK_BYTES):
                return "disk"
        return "timeout" if time.monotonic() > deadline else None

    def _end(self) -> None:
        """Cut the lifeline, and wait until the keeper has killed, removed and ended."""
        if self._lifeline < 0:
            return
        os.close(self._lifeline)
        self._lifeline = -1
        self._ended_by = int(_read_until(self._fate, time.monotonic() + _GRACE) or 0)
        os.close(self._fate)
        with suppress(subprocess.TimeoutExpired):
            self._keeper.wait(1.0)
        if self._keeper.poll() is None:  # then the kernel ends the others
            self._keeper.kill()
            self._keeper.wait(_GRACE)
        if self._home.exists():
            remove(self._home)

    def _drain(self) -> None:
        """Take what was printed to the end: nobody is left who could add to it."""
        output, descriptor = self._received["output"], self._read["output"]
        os.set_blocking(descriptor, False)
        with suppress(BlockingIOError):
            while len(output) <= self._task.max_output and (some := os.read(descriptor, 4096)):
                output += some

    def _verdict(self, status: Status | None) -> Verdict:
        printed = self._received["output"].decode(errors="replace")
        if not self._received["report"]:
            raise SandboxError(f"the sandbox did not start: {printed[-2000:] or 'no word from it'}")
        message = ""
        if status is None:
            status, message = _parsed(self._received["verdict"])
            if status == "exited" and self._ended_by == signal.SIGXCPU:
                status = "timeout"
        output = "\n".join(text for text in (printed[: self._task.max_output], message) if text)
        protection = tuple(self._received["report"].decode(errors="replace").split(", "))
        return Verdict(status, output, protection)


def _parsed(verdict: bytearray) -> tuple[Status, str]:
    """Status and message, which come from a process that may have run anything."""
    try:
        status, message = json.loads(verdict)
    except (ValueError, TypeError, RecursionError):
        return "exited", ""
    if status in get_args(Status) and isinstance(message, str):
        return status, message
    return "exited", ""


def _read_until(descriptor: int, deadline: float) -> bytes:
    """What comes before the other end is closed, or the time is over."""
    found = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if selector.select(left):
                some = os.read(descriptor, 64)
                if not some:
                    break
                found += some
    return found
