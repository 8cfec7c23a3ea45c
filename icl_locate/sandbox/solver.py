"""The process in which foreign code runs: it serves calls of what the code defines."""

import os
import sys
import types
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import confine  # type: ignore[import-not-found]
import wire  # type: ignore[import-not-found]

MODULE = types.ModuleType("solution")


def serve(request: str, argument: Any) -> Any:
    """Load code as a module and return its names, or take values by their names."""
    if request == "load":
        sys.modules["solution"] = MODULE  # where dataclasses look for it
        exec(compile(argument, "<code>", "exec"), MODULE.__dict__)  # noqa: S102
        return [name for name in MODULE.__dict__ if not name.startswith("__")]
    return {name: MODULE.__dict__[name] for name in argument if name in MODULE.__dict__}


def main() -> None:
    """Serve until the checker is gone."""
    (report, read_fd, write_fd), enforced = confine.main(sys.argv[1:])
    os.write(report, ", ".join(enforced).encode())
    os.close(report)
    peer = wire.Peer(read_fd, write_fd, trusting=True)
    peer.offer(0, serve)
    try:
        peer.serve()
    except wire.GoneError:
        os._exit(0)


if __name__ == "__main__":
    main()
