"""The process in which tests run: they see copies of the code's data, and call its functions."""

import ast
import builtins
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import confine  # type: ignore[import-not-found]
import wire  # type: ignore[import-not-found]


def used_names(tests: str, entry_point: str) -> list[str]:
    """The names that tests use, which the code may define.

    One that shadows a builtin would change what the tests do, so it must be what they test: the
    entry point, or where none is named the only one that they use.
    """
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    return sorted(name for name in used if not hasattr(builtins, name) or name == entry_point)


def only_shadow(tests: str, defined: list[str]) -> str:
    """The one builtin's name that the code defines and the tests use, if they use no other name."""
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    found = used.intersection(defined)
    return found.pop() if len(found) == 1 else ""


def check(peer: Any, code: str, tests: str, entry_point: str) -> tuple[str, str]:
    """Load the code, run its tests; returns status and message."""
    try:
        code_side = wire.Reference(peer, 0, None)
        defined = code_side("load", code)
        entry_point = entry_point or only_shadow(tests, defined)
        space = {"__name__": "tests", **code_side("take", used_names(tests, entry_point))}
        exec(compile(tests, "<tests>", "exec", optimize=0), space)  # noqa: S102
    except wire.GoneError as error:
        return "exited", f"the code's process did not stay until its tests had run: {error}"
    except AssertionError as error:
        status, message = "failed", f"AssertionError: {error}"
    except BaseException as error:
        status, message = "error", f"{type(error).__name__}: {error}"
    else:
        status, message = "passed", ""
    if peer.is_gone:  # tests may have caught that
        return "exited", "the code's process did not stay until its tests had run"
    return status, message


def main() -> None:
    """Read code and tests, and write the verdict."""
    *arguments, task = sys.argv[1:]
    given = json.loads(Path(task).read_text("utf-8"))
    verdict, read_fd, write_fd = confine.main(arguments)[0]
    status, message = check(wire.Peer(read_fd, write_fd, trusting=False), *given)
    os.write(verdict, json.dumps([status, message[:4000]]).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
