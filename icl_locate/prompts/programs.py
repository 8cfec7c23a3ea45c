"""Tasks whose answers are programs: what a program must pass, and what a pass rate is."""

import ast
import math
from dataclasses import dataclass
from typing import Literal

from icl_locate.checks.signatures import check_fields, checked
from icl_locate.errors import TaskError

Form = Literal["function", "statements"]


@dataclass(frozen=True)
class CodeCheck:
    """How an answer becomes a program, and what that program must pass.

    Attributes:
        tests: Python that runs after the program, and raises if it is wrong.
        prompt: what stood before the answer: imports, helpers, signature and docstring.
        entry_point: the function that is tested.
        form: "function": the answer defines the entry point, or goes on with its body;
            "statements": the answer changes a variable ``x``, and the program is ``run(x)``.
    """

    tests: str
    prompt: str = ""
    entry_point: str = ""
    form: Form = "function"

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    @checked(TaskError)
    def program(self, answer: str) -> str:
        r"""The program that an answer stands for.

        >>> print(CodeCheck("", "import math\ndef f(x):\n", "f").program("    return x"))
        import math
        def f(x):
            return x
        """
        if self.form == "statements":
            return (
                f"def run(x):\n    space = {{'x': x}}\n"
                f"    exec({answer.strip()!r}, space)\n    return space['x']\n"
            )
        if self.entry_point not in _functions(answer):
            bodies = _as_bodies(answer)
            programs = [f"{self.prompt.rstrip()}\n{body}" for body in bodies]
            return next((text for text in programs if _is_python(text)), programs[0])
        return f"{_before(self.prompt, self.entry_point)}\n{answer}"


@checked(TaskError)
def pass_at_k(n_samples: int, n_passed: int, k: int) -> float:
    """The chance that at least one of ``k`` samples passes, estimated without bias.

    ``1 - C(n - c, k) / C(n, k)`` for ``c`` passes among ``n`` samples (Chen et al. 2021, section
    2.1).

    Raises:
        TaskError: unless ``1 <= k <= n_samples`` and ``0 <= n_passed <= n_samples``.

    >>> pass_at_k(10, 5, 1), pass_at_k(4, 2, 2)
    (0.5, 0.8333333333333334)
    """
    if not 1 <= k <= n_samples:
        raise TaskError(
            f"k is {k}, but n_samples is {n_samples}: expected 1 to {n_samples}; "
            "draw more samples, or ask for a smaller k"
        )
    if not 0 <= n_passed <= n_samples:
        raise TaskError(
            f"n_passed is {n_passed}, but n_samples is {n_samples}: expected 0 to {n_samples}"
        )
    return 1.0 - math.comb(n_samples - n_passed, k) / math.comb(n_samples, k)


def signature_of(code: str, name: str) -> str:
    """The line that opens a function's definition, as ``ast`` writes it; empty if there is none.

    >>> signature_of("def f( a,b = 2 ): return a", "f")
    'def f(a, b=2):'
    """
    function = _functions(code).get(name)
    if function is None:
        return ""
    returns = "" if function.returns is None else f" -> {ast.unparse(function.returns)}"
    return f"def {name}({ast.unparse(function.args)}){returns}:"


def _functions(code: str) -> dict[str, ast.FunctionDef]:
    if not _is_python(code):
        return {}
    return {node.name: node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _as_bodies(answer: str) -> list[str]:
    """What an answer may be as the rest of a function: as it is, indented, or its first line so.

    Generation strips an answer, and with it the first line's indent.
    """
    lines = answer.strip("\n").split("\n")
    if lines[0].startswith((" ", "\t")):
        return ["\n".join(lines)]
    indented = ["    " + line if line else line for line in lines]
    return ["\n".join(indented), "\n".join([indented[0], *lines[1:]])]


def _before(prompt: str, entry_point: str) -> str:
    """What a prompt holds in front of the entry point: imports and helpers."""
    lines = prompt.split("\n")
    found = [i for i, line in enumerate(lines) if line.startswith(f"def {entry_point}(")]
    return "\n".join(lines[: found[-1]]) if found else ""
