"""Run generated Python against tests, without trusting it."""

from dataclasses import dataclass, replace

from icl_locate.checks.signatures import checked, number, one_of, whole
from icl_locate.errors import SandboxError
from icl_locate.sandbox.processes import Status, Task, Verdict, Wall, run_once
from icl_locate.sandbox.turned import turned_tests

WALLS = ("auto", "sealed", "shared")
LONGEST = 86_400  # seconds
_SMALLEST, _LARGEST = 1 << 26, 1 << 50  # bytes: what Python itself takes, more than there are
_TURNED = 4  # so many times do the tests run with a wrong answer in them


@dataclass(frozen=True)
class SandboxResult:
    """What became of a snippet.

    Attributes:
        passed: whether it loaded, and all its tests ran to their end.
        status: "passed"; "failed" (an assertion), "error" (another exception), "unjudged" (no
            verdict: see `run_python`), "exited" (its process ended before its tests), "timeout",
            "output" or "disk" (it wrote too much).
        output: what it printed, and the error's message.
        protection: what held the code: "files" and "network and processes" where the kernel
            enforces them; "by seccomp alone" where it has no second lock; else "audit hooks".
            Limits of time, memory and output hold always.
        wall: what the verdict was reached by: "sealed" (two processes) or "shared" (one).
    """

    passed: bool
    status: Status
    output: str
    protection: tuple[str, ...]
    wall: Wall = "sealed"


@checked(
    SandboxError,
    timeout=number(above=0, below=LONGEST),
    memory=whole(_SMALLEST, _LARGEST),
    max_output=whole(),
    wall=one_of(*WALLS),
)
def run_python(
    code: str,
    *,
    tests: str,
    timeout: float = 5.0,
    memory: int = 1 << 30,
    max_output: int = 1 << 16,
    entry_point: str = "",
    wall: str = "auto",
) -> SandboxResult:
    """Run Python code, then its tests, in processes that are confined.

    The code has no network, no further processes, no signals to others, no environment, no packages
    beyond the standard library, and files only in a temporary directory. What judges it is chosen:

    - "sealed": the tests run in a process of their own. They call the code's functions across a
      wall, and see copies of the data that these return. Nothing that the code does to its
      interpreter makes a test pass, and no object of its own equals plain data. Where tests fail
      that use such objects, ask whether two things are one, or change what was returned, that may
      be the wall's doing: they get no verdict but "unjudged".
    - "shared": one process runs the code, then the tests in a namespace of their own, with builtins
      and the standard library as they were before. So do the published harnesses. Code that means
      to deceive can reach the tests, and pass.
    - "auto": "sealed"; where that gives "unjudged", "shared". A pass then counts only if the code
      fails the tests when the answers in them are made wrong, one at a time, up to four: code that
      passes whatever is asked, or reads its answers off the tests, passes these too, and is
      "unjudged".

    Args:
        code: a module's source.
        tests: source that runs after it and raises if the code is wrong; it sees the code's names.
        timeout: seconds, wall time, for one run of both; "auto" makes one run, or up to six.
        memory: bytes of address space of each process.
        max_output: characters of output that may be printed.
        entry_point: the name that the tests test; only it may shadow a builtin.
        wall: "auto", "sealed" or "shared".

    Raises:
        SandboxError: if an argument is out of range, the tests are no Python, or the sandbox could
            not be set up.
    """
    try:
        compile(tests, "<tests>", "exec")
    except (SyntaxError, ValueError) as error:
        raise SandboxError(f"the tests are no Python: {error}") from error
    task = Task(code, tests, entry_point, timeout, memory, max_output)
    if wall != "shared":
        verdict = run_once(task, "sealed")
        if wall == "sealed" or verdict.status != "unjudged":
            return _result(verdict, "sealed")
    verdict = run_once(task, "shared")
    if wall == "auto" and verdict.status == "passed":
        verdict = _doubted(task, verdict)
    return _result(verdict, "shared")


def _result(verdict: Verdict, wall: Wall) -> SandboxResult:
    passed = verdict.status == "passed"
    return SandboxResult(passed, verdict.status, verdict.output, verdict.protection, wall)


def _doubted(task: Task, verdict: Verdict) -> Verdict:
    """A pass in one process, unless the code passes with wrong answers in its tests, too."""
    for tests in turned_tests(task.tests, _TURNED, seed=task.code):
        turned = run_once(replace(task, tests=tests), "shared")
        if turned.status == "passed":
            why = "it passes with a wrong answer in its tests, too: so passing them says nothing"
            return replace(verdict, status="unjudged", output=f"{verdict.output}\n{why}".strip())
    return verdict
