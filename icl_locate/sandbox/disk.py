"""Directories that were filled with bad intent: measured and removed without recursion."""

import os
from contextlib import suppress
from pathlib import Path

MAX_DEPTH, MAX_ENTRIES = 40, 10_000


def is_over(directory: Path, limit: int) -> bool:
    """Whether a directory holds more bytes than a limit, or is too deep, full or closed to tell."""
    total, n_entries = 0, 0
    waiting = [(os.fspath(directory), 0)]
    while waiting:
        path, depth = waiting.pop()
        try:
            entries = list(os.scandir(path))
        except FileNotFoundError:
            continue
        except OSError:
            return True
        n_entries += len(entries)
        if n_entries > MAX_ENTRIES or depth > MAX_DEPTH:
            return True
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append((entry.path, depth + 1))
            with suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
        if total > limit:
            return True
    return False


def remove(directory: Path) -> None:
    """Remove a directory, however deep: what lies in a folder moves up before the folder goes.

    What cannot be removed is left, without an error.
    """
    number = 0
    waiting = [directory]
    while waiting:
        folder = waiting.pop()
        with suppress(OSError):
            folder.chmod(0o700)
            for entry in list(os.scandir(folder)):
                if not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink()
                    continue
                number += 1
                up = directory.with_name(f"{directory.name}_{number}")
                Path(entry.path).chmod(0o700)
                Path(entry.path).rename(up)
                waiting.append(up)
            folder.rmdir()
