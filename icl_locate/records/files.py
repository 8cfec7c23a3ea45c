"""Files that are whole or not there: written under another name, then put in place at once."""

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icl_locate.checks.arguments import refuse
from icl_locate.errors import IclLocateError, ResultError

_PROBE = bytes(64 * 1024)
_TRIES = 10


def replace_file(path: str | Path, content: Iterable[bytes | memoryview]) -> Path:
    """Write a file that takes the place of the last at once; its directory is made if need be.

    Until all of it is on the disk the old file stays as it was: whoever reads, is killed or runs
    out of room finds the old or the new one, whole. Of several writers the last one wins.

    Args:
        content: what to write, in pieces.

    Raises:
        ResultError: if it cannot be written; the old file is then as it was.
    """
    target, pieces = as_path(path), list(content)

    def write() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _unused(target.parent)
        with _removed_on_failure(part):
            _write(part, pieces)
            part.replace(target)

    try:
        _again_if_removed(write)
    except (OSError, ValueError) as error:
        raise ResultError(f"{target} cannot be written: {describe(error)}") from error
    with suppress(OSError):  # not every file system lets a directory be synchronised
        _synchronise(target.parent)
    return target


def check_output(output: str | Path, names: Iterable[str] = ()) -> None:
    """Refuse, before anything runs, a directory that cannot be written. Leaves nothing behind.

    It is tried: missing directories are made, some kilobytes written, and all of it is removed.

    Args:
        names: files that will be written there.

    Raises:
        IclLocateError: if it cannot be written, or a file's name is a directory's.
    """
    directory = as_path(output, "output")
    try:
        _again_if_removed(lambda: _try_writing(directory))
        taken = [name for name in names if (directory / name).is_dir()]
    except (OSError, ValueError) as error:
        raise IclLocateError(f"nothing can be written to {directory}: {describe(error)}") from error
    if taken:
        raise IclLocateError(
            f"{directory / taken[0]} is a directory, where a file is to be written: remove it, or "
            "choose another output"
        )


def as_path(path: object, name: str = "path") -> Path:
    """The path of a file.

    Raises:
        ResultError: if it is neither text nor a path, or empty.
    """
    if isinstance(path, (str, Path)) and str(path):
        return Path(path)
    return refuse(name, path, "the path of a file, as text or a pathlib.Path", ResultError)


def describe(error: Exception) -> str:
    """What was in the way, in words.

    >>> describe(OSError(28, "No space left on device", "runs/result"))
    'No space left on device (runs/result)'
    """
    said = error.strerror if isinstance(error, OSError) else None
    text = (said or str(error).strip() or type(error).__name__).splitlines()[0]
    where = getattr(error, "filename", None)
    return f"{text} ({os.fsdecode(where)})" if isinstance(where, (str, bytes)) else text


def _try_writing(directory: Path) -> None:
    """Write and remove some kilobytes in a directory that may be still to be made."""
    line = (directory, *directory.absolute().parents)
    missing = [path for path in line if not os.path.lexists(path)]
    existing = line[len(missing)]
    if not existing.is_dir():  # a file, or a link to nowhere
        raise FileExistsError(f"{existing} is in the way")
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.append(path)
        probe = _unused(directory)
        with _removed_on_failure(probe):
            _write(probe, [_PROBE])
        probe.unlink()
    finally:
        for path in reversed(made):
            with suppress(OSError):  # somebody else writes there by now
                path.rmdir()


def _unused(directory: Path) -> Path:
    """A name in a directory that no other process or thread uses."""
    return directory / f".icl_locate-{secrets.token_hex(8)}.part"


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:  # whatever ends the writing, Ctrl-C too
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def _synchronise(directory: Path) -> None:
    """Have the disk hold a directory's names, too."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _again_if_removed(act: Callable[[], None]) -> None:
    """Do it again where another process's probe made or took away a directory in between."""
    for attempt in range(_TRIES - 1):
        try:
            return act()
        except (FileNotFoundError, FileExistsError):  # mkdir says so too if it is gone by then
            # Longer and longer, and by chance, so that two processes fall out of step.
            time.sleep(secrets.randbelow(1000) * 1e-6 * 2 ** min(attempt, 4))
    return act()
