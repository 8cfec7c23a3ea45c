"""Run generated Python against tests, without trusting it."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icl_locate.errors import SandboxError
from icl_locate.sandbox.disk import is_over, remove

Status = Literal["passed", "failed", "error", "exited", "timeout", "output", "disk"]

_HERE = Path(__file__).parent
_LOOK_EVERY = 0.1  # seconds between looks at the disk
_DISK_BYTES = 1 << 26
_LONGEST = 86_400  # seconds
_SMALLEST = 1 << 26  # bytes that Python itself takes


@dataclass(frozen=True)
class SandboxResult:
    """What became of a snippet.

    Attributes:
        passed: whether it loaded, and all its tests ran to their end.
        status: "passed"; "failed" (an assertion), "error" (another exception), "exited" (its
            process ended before its tests), "timeout", "output" or "disk" (it wrote too much).
        output: what it printed, and the error's message.
        protection: what held the code: "files" and "network and processes" where the kernel
            enforces it, else "audit hooks"; limits of time, memory and output hold always.
    """

    passed: bool
    status: Status
    output: str
    protection: tuple[str, ...]


def run_python(
    code: str,
    *,
    tests: str,
    timeout: float = 5.0,
    memory: int = 1 << 30,
    max_output: int = 1 << 16,
    entry_point: str = "",
) -> SandboxResult:
    """Run Python code, then its tests, in two processes that are confined.

    The code gets a process of its own: no network, no further processes, no signals to others, no
    environment, no packages beyond the standard library, files only in a temporary directory. The
    tests run in another one: they call the code's functions there, and see copies of the data that
    these return. So nothing that the code does to its interpreter can make a test pass.

    Args:
        code: a module's source.
        tests: source that runs after it and raises if the code is wrong; it sees the code's names.
        timeout: seconds, wall time, for both together.
        memory: bytes of address space of each process.
        max_output: characters of output that may be printed.
        entry_point: the name that the tests test; only it may shadow a builtin.

    Raises:
        SandboxError: if ``timeout`` or ``memory`` is out of range, the tests are no Python, or the
            sandbox could not be set up.
    """
    if not 0 < timeout < _LONGEST:
        raise SandboxError(f"timeout is {timeout}: expected seconds above 0, below {_LONGEST}")
    if memory < _SMALLEST:
        raise SandboxError(f"memory is {memory} bytes: expected {_SMALLEST} or more")
    try:
        compile(tests, "<tests>", "exec")
    except (SyntaxError, ValueError) as error:
        raise SandboxError(f"the tests are no Python: {error}") from error
    with (
        _temporary_directory() as home,
        _Processes(home, [code, tests, entry_point], timeout, memory) as running,
    ):
        return running.watch(max_output)


class _Processes:
    """The two processes, and the pipes between them and to us."""

    def __init__(self, home: Path, given: list[str], timeout: float, memory: int) -> None:
        self._home = home
        self._deadline = time.monotonic() + timeout
        self._next_look = 0.0
        self._limits = [str(timeout), str(memory)]
        task = home / "task.json"
        task.write_text(json.dumps(given), encoding="utf-8")
        to_solver, to_checker, verdict, report, output = (os.pipe() for _ in range(5))
        self._read = {"verdict": verdict[0], "report": report[0], "output": output[0]}
        theirs = [*to_solver, *to_checker, verdict[1], report[1], output[1]]
        try:
            self._processes = [
                self._start("solver", [report[1], to_solver[0], to_checker[1]], output[1]),
                self._start("checker", [verdict[1], to_checker[0], to_solver[1]], output[1], task),
            ]
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()
        for descriptor in self._read.values():
            os.close(descriptor)

    def _end(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(
        self, script: str, pipes: list[int], output: int, *more: Path
    ) -> "subprocess.Popen[bytes]":
        home = self._home / script
        home.mkdir()
        command = [sys.executable, "-I", "-S", "-B", "-u", str(_HERE / f"{script}.py"), str(home)]
        return subprocess.Popen(  # noqa: S603 - our own scripts
            [*command, *self._limits, *map(str, pipes), *map(str, more)],
            env={},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pipes,
            start_new_session=True,
        )

    def watch(self, max_output: int) -> SandboxResult:
        """Wait for the verdict, or for a limit."""
        received = {"verdict": bytearray(), "report": bytearray(), "output": bytearray()}
        status: Status | None = None
        with selectors.DefaultSelector() as selector:
            for name, descriptor in self._read.items():
                selector.register(descriptor, selectors.EVENT_READ, name)
            while status is None and self._read["verdict"] in selector.get_map():
                for key, _ in selector.select(_LOOK_EVERY):
                    some = os.read(key.fd, 1 << 16)
                    received[key.data] += some
                    if not some:
                        selector.unregister(key.fd)
                if len(received["output"]) > max_output:
                    status = "output"
                elif self._is_full():
                    status = "disk"
                elif time.monotonic() > self._deadline:
                    status = "timeout"
        if status is None and b'"exited"' in received["verdict"]:
            self._processes[0].wait()  # to learn how it ended
        self._end()
        while len(received["output"]) <= max_output and (
            some := os.read(self._read["output"], 4096)
        ):
            received["output"] += some
        return self._result(status, received, max_output)

    def _is_full(self) -> bool:
        """Whether too much was written; looks only now and then."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _LOOK_EVERY
        return is_over(self._home, _DISK_BYTES)

    def _result(
        self, status: Status | None, received: dict[str, bytearray], max_output: int
    ) -> SandboxResult:
        message = ""
        if status is None and received["verdict"]:
            status, message = json.loads(received["verdict"])
            if status == "exited" and self._processes[0].returncode == -signal.SIGXCPU:
                status = "timeout"
        printed = received["output"].decode(errors="replace")
        if not received["report"]:
            raise SandboxError(f"the sandbox did not start: {printed[-2000:] or 'no word from it'}")
        protection = tuple(received["report"].decode().strip().split(", "))
        output = "\n".join(text for text in (printed[:max_output], message) if text)
        found: Status = status or "exited"
        return SandboxResult(found == "passed", found, output, protection)


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="icl_sandbox_"))
    try:
        yield home
    finally:
        remove(home)
