"""The process in which foreign code runs: it serves calls of what the code defines."""

import builtins
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import confine  # type: ignore[import-not-found]
import wire  # type: ignore[import-not-found]


def load(code: str) -> dict[str, Any]:
    """Run the code as a module; returns its names."""
    space: dict[str, Any] = {"__name__": "solution", "__builtins__": builtins}
    exec(compile(code, "<code>", "exec"), space)  # noqa: S102 - what this process is for
    return {name: value for name, value in space.items() if not name.startswith("__")}


def main() -> None:
    """Serve until the checker is gone."""
    (report, read_fd, write_fd), enforced = confine.main(sys.argv[1:])
    os.write(report, ", ".join(enforced).encode())
    os.close(report)
    peer = wire.Peer(read_fd, write_fd, trusting=True)
    peer.offer(0, load)
    try:
        peer.serve()
    except wire.GoneError:
        os._exit(0)


if __name__ == "__main__":
    main()
