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


def names_for(tests: str, names: dict[str, Any]) -> dict[str, Any]:
    """The code's names that its tests see.

    A name that shadows a builtin is seen if the tests use no other of the code's names: then it is
    what they test; else it would change what they do.
    """
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    shadows = {name for name in names if hasattr(builtins, name)}
    if used & (names.keys() - shadows):
        return {name: value for name, value in names.items() if name not in shadows}
    return names


def check(peer: Any, code: str, tests: str) -> tuple[str, str]:
    """Load the code, run its tests; returns status and message."""
    try:
        names = wire.Reference(peer, 0, None)(code)
        space = {"__name__": "tests", **names_for(tests, names)}
        exec(compile(tests, "<tests>", "exec", optimize=0), space)  # noqa: S102
    except wire.GoneError as error:
        return "exited", f"the code's process did not stay until its tests had run: {error}"
    except AssertionError as error:
        return "failed", f"AssertionError: {error}"
    except BaseException as error:
        return "error", f"{type(error).__name__}: {error}"
    return "passed", ""


def main() -> None:
    """Read code and tests, and write the verdict."""
    *arguments, task = sys.argv[1:]
    code, tests = json.loads(Path(task).read_text("utf-8"))
    verdict, read_fd, write_fd = confine.main(arguments)[0]
    status, message = check(wire.Peer(read_fd, write_fd, trusting=False), code, tests)
    os.write(verdict, json.dumps([status, message[:4000]]).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
