"""The process that starts those of a run, ends them, and removes what they wrote.

It hears of the end by a pipe whose other end is the parent's alone. So whatever becomes of the
parent, SIGKILL too, nothing of a run is left.
"""

import json
import os
import select
import signal
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

from icl_locate.sandbox import checker, confine, disk, judge, solver, wire

_PATIENCE = 120.0  # seconds beyond the limit to wait for a parent that lives but is silent
_FILE_BYTES = 1 << 21


class Run(NamedTuple):
    """A run as the parent describes it.

    Attributes:
        wall: "sealed" or "shared".
        home: the directory to make, and to remove.
        seconds, memory: limits, in bytes the second.
        lifeline: the file descriptor where the end is heard of.
        fate: where to say which signal ended the code's process.
        task: where code, tests and entry point are read.
        verdict, report: where to write status and message, and what holds the code.
    """

    wall: str
    home: str
    seconds: float
    memory: int
    lifeline: int
    fate: int
    task: int
    verdict: int
    report: int

    def keep(self) -> None:
        """Start the processes, and end them when the lifeline is cut."""
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)  # whoever ends the parent ends us by that
        Path(self.home).mkdir(0o700)
        started: list[int] = []
        try:
            started += self._one() if self.wall == "shared" else self._two()
            for descriptor in (self.task, self.verdict, self.report):
                os.close(descriptor)
            select.select([self.lifeline], [], [], self.seconds + _PATIENCE)
        finally:
            signals = [_end(process) for process in started]
            disk.remove(Path(self.home))
        os.write(self.fate, str(signals[0]).encode())

    def _two(self) -> list[int]:
        """The code's process, then the tests', with a pipe each way."""
        to_code, to_tests = os.pipe(), os.pipe()
        pipes = [*to_code, *to_tests]
        solve = partial(self._solve, to_code[0], to_tests[1])
        check = partial(self._check, to_tests[0], to_code[1])
        started = [
            self._start("code", solve, [self.report, to_code[0], to_tests[1]], pipes),
            self._start("tests", check, [self.task, self.verdict, to_tests[0], to_code[1]], pipes),
        ]
        for descriptor in pipes:
            os.close(descriptor)
        return started

    def _one(self) -> list[int]:
        return [self._start("code", self._judge, [self.report, self.task, self.verdict], [])]

    def _solve(self, read_fd: int, write_fd: int) -> None:
        self._confine(report=True)
        solver.main(read_fd, write_fd)

    def _check(self, read_fd: int, write_fd: int) -> None:
        given = self._given()
        self._confine(report=False)
        self._say(*checker.check(wire.Peer(read_fd, write_fd, trusting=False), *given))

    def _judge(self) -> None:
        given = self._given()
        self._confine(report=True)
        self._say(*judge.judge(*given))

    def _start(
        self, name: str, play: Callable[[], None], kept: Collection[int], pipes: list[int]
    ) -> int:
        """Start a process in a directory of its own, with no file descriptors but some."""
        home = Path(self.home, name)
        home.mkdir()
        keeper = os.getpid()
        process = os.fork()
        if process:
            return process
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for awaited in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(awaited, signal.SIG_DFL)
            confine.die_with(keeper)
            ours = {self.lifeline, self.fate, self.task, self.verdict, self.report}
            for descriptor in ours.union(pipes).difference(kept):
                os.close(descriptor)
            os.chdir(home)
            play()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def _confine(self, *, report: bool) -> None:
        confine.limit_resources(seconds=self.seconds, memory=self.memory, file_bytes=_FILE_BYTES)
        held_by = confine.confine(str(Path.cwd()))
        for name in [name for name in sys.modules if name.startswith("icl_locate")]:
            del sys.modules[name]
        sys.argv[:] = [""]
        if report:
            os.write(self.report, ", ".join(held_by).encode())
            os.close(self.report)

    def _given(self) -> list[str]:
        with os.fdopen(self.task, "rb") as file:
            given: list[str] = json.load(file)
        return given

    def _say(self, status: str, message: str) -> None:
        os.write(self.verdict, json.dumps([status, message[:4000]]).encode())
        os._exit(0)


def main(arguments: list[str]) -> None:
    """Keep the run of a command line."""
    wall, home, seconds, memory, *descriptors = arguments
    Run(wall, home, float(seconds), int(memory), *map(int, descriptors)).keep()


def _end(process: int) -> int:
    """Kill a process, stopped or not; returns the signal that ended it."""
    os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
