"""What a process gives up before it runs foreign code. Standard library alone.

On Linux the kernel enforces it: Landlock for files, seccomp for system calls, no capabilities.
Elsewhere limits of resources hold, and audit hooks stop what is not written to get around them.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import PurePath

from icl_locate.sandbox.calls import restrict_calls
from icl_locate.sandbox.files import PACKAGES, restrict_files

_NO_NEW_PRIVILEGES, _DUMPABLE, _DIE_WITH_PARENT = 38, 4, 1


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends; end at once if it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it may have ended before we asked
        os._exit(1)


def limit_resources(*, seconds: float, memory: int, file_bytes: int) -> None:
    """Bound CPU time, address space, file size and open files; no core dumps."""
    cpu = int(seconds) + 1
    wanted = {
        "RLIMIT_CPU": cpu,
        "RLIMIT_AS": memory,
        "RLIMIT_FSIZE": file_bytes,
        "RLIMIT_NOFILE": 32,  # deleted files that are still open count on the disk, too
        "RLIMIT_CORE": 0,
    }
    for name, value in wanted.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (bound, bound))
        except (ValueError, OSError):
            continue  # macOS knows RLIMIT_AS but does not set it


def confine(directory: str) -> tuple[str, ...]:
    """Give up everything but computing, and files below ``directory``.

    Returns:
        What holds the process, as `protection` names it.
    """
    landlock, filtered = 0, False
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)  # which Landlock and seccomp ask for
        libc.prctl(_DUMPABLE, 0, 0, 0, 0)  # not to be traced, nor its memory written
        landlock = restrict_files(libc, directory)
        libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24))  # no capabilities
        filtered = restrict_calls(libc)
    found = protection(landlock, filtered=filtered)
    if "audit hooks" in found:
        sys.addaudithook(_auditor(directory))
    return found


def protection(landlock: int, *, filtered: bool) -> tuple[str, ...]:
    """What holds a process, by what its kernel has.

    Args:
        landlock: Landlock's version; 0 where there is none. From version 3 on (Linux 6.2) it keeps
            files from being emptied, from 6 on (Linux 6.12) it keeps signals and abstract sockets
            from other processes.
        filtered: whether seccomp refuses system calls: those for these two as well.

    >>> protection(7, filtered=True)
    ('files', 'network and processes')
    >>> protection(2, filtered=True)
    ('files', 'network and processes by seccomp alone')
    >>> protection(0, filtered=True)
    ('network and processes by seccomp alone', 'audit hooks')
    """
    found: list[str] = []
    if landlock:
        found.append("files" if filtered or landlock >= 3 else "files, but for emptying them")
    if filtered:
        found.append("network and processes" + (" by seccomp alone" if landlock < 6 else ""))
    if len(found) < 2:
        found.append("audit hooks")
    return tuple(found)


def _auditor(directory: str) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook: no network, processes, signals, packages, and no writing elsewhere."""
    network_and_processes = (
        "socket.",
        "subprocess.",
        "os.system",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
    )
    others = ("os.spawn", "os.kill", "os.chmod", "os.chown", "ctypes.", "shutil.")
    changing = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
    home = os.path.realpath(directory) + os.sep

    def is_outside(paths: Iterable[object]) -> bool:
        return any(
            not os.path.realpath(os.fsdecode(path)).startswith(home)
            for path in paths
            if isinstance(path, (str, bytes))
        )

    def is_package(path: object) -> bool:
        return isinstance(path, (str, bytes)) and not PACKAGES.isdisjoint(
            PurePath(os.path.realpath(os.fsdecode(path))).parts
        )

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(network_and_processes) or event.startswith(others):
            raise PermissionError(f"{event} is not for code in the sandbox")
        if event.startswith(changing) and is_outside(arguments[:2]):
            raise PermissionError(f"{event} outside {home} is not for code in the sandbox")
        if event == "import" and is_package(arguments[1]):
            raise PermissionError(f"{arguments[1]!r} is not for code in the sandbox")
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            writes = writes or (isinstance(mode, str) and bool(set(mode) & set("wax+")))
            if (writes and is_outside([path])) or is_package(path):
                raise PermissionError(f"{path!r} is not for code in the sandbox")

    return audit
