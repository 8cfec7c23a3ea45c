"""The process in which tests run: they see copies of the code's data, and call its functions."""

import ast
import builtins
from typing import Any

from icl_locate.sandbox import wire


def used_names(tests: str, entry_point: str) -> list[str]:
    """The names that tests use, which the code may define.

    One that shadows a builtin would change what the tests do, so it must be what they test: the
    entry point, or where none is named the only name that they use.
    """
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    if not entry_point and len(used) == 1:
        (entry_point,) = used
    return sorted(
        name
        for name in used
        if name == entry_point
        or not (hasattr(builtins, name) or (name.startswith("__") and name.endswith("__")))
    )


def verdict_of(error: BaseException | None) -> tuple[str, str]:
    """Status and message of tests that ended so."""
    if error is None:
        return "passed", ""
    status = "failed" if isinstance(error, AssertionError) else "error"
    return status, f"{type(error).__name__}: {error}"


def check(peer: Any, code: str, tests: str, entry_point: str) -> tuple[str, str]:
    """Load the code, run its tests; returns status and message."""
    ended: BaseException | None = None
    try:
        code_side = wire.Reference(peer, 0, None)
        code_side("load", code)
        names = used_names(tests, entry_point)
        taken = code_side("take", names)
        if type(taken) is not dict:
            raise wire.GoneError("it sent no names")
        # no more than was asked for, whatever came; and nothing of it decides what builtins are
        space = {name: taken[name] for name in names if name in taken}
        space |= {"__name__": "tests", "__builtins__": builtins}
        exec(compile(tests, "<tests>", "exec", optimize=0), space)  # noqa: S102
    except BaseException as error:
        ended = error
    if peer.is_gone or isinstance(ended, wire.GoneError):  # tests may have caught that
        why = f": {ended}" if isinstance(ended, wire.GoneError) else ""
        return "exited", f"the code's process did not stay until its tests had run{why}"
    status, message = verdict_of(ended)
    doubts = [] if ended is None else doubts_about(peer, tests, ended)
    if doubts:
        return "unjudged", f"{message}\nnot to be judged across processes: {'; '.join(doubts)}"
    return status, message


def doubts_about(peer: Any, tests: str, ended: BaseException) -> list[str]:
    """Why tests that ended with an error might have passed in one process with the code.

    There is no doubt where they expected plain data, and an object of the code came.
    """
    if peer.expected_data:
        return []
    found = sorted(peer.doubts)
    seen = _Questions()
    seen.visit(ast.parse(tests))
    if peer.has_objects and ended is not peer.raised:
        found.append("the tests used an object of the code")
    if seen.errors and peer.raised is not None:
        found.append("the tests ask for more than the message of an error")
    if seen.identity:
        found.append("the tests ask whether two things are one")
    if peer.has_changed_copies():
        found.append("the tests changed what the code had returned")
    return found


class _Questions(ast.NodeVisitor):
    """What tests ask that the wall answers otherwise than one process would."""

    def __init__(self) -> None:
        self.identity = self.errors = False

    def visit_Compare(self, node: ast.Compare) -> None:
        """``x is y``, unless one side is a constant or a builtin."""
        sides = [node.left, *node.comparators]
        for i, operator in enumerate(node.ops):
            if isinstance(operator, (ast.Is, ast.IsNot)):
                self.identity |= not any(map(_is_fixed, sides[i : i + 2]))
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Attributes of a caught error, of which only its arguments are forwarded."""
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                self.errors |= part.value.id == node.name and part.attr != "args"
        self.generic_visit(node)


def _is_fixed(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) or (
        isinstance(node, ast.Name) and hasattr(builtins, node.id)
    )
