"""The files that foreign code may read and write, by the kernel's Landlock.

Standard library alone.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = frozenset(["site-packages", "dist-packages"])
_LEFT_OUT = PACKAGES | {"ensurepip"}  # which holds pip as a wheel
_LIST, _READ, _WRITE = 0b1000, 0b1100, 0b10
_CREATE, _ADD, _RESTRICT = 444, 445, 446


def restrict_files(libc: ctypes.CDLL, directory: str) -> int:
    """Let files be written below one directory alone, and read there and in Python's library.

    Returns:
        The version of Landlock that enforces it; 0 where none does.
    """
    version: int = libc.syscall(_CREATE, None, 0, 1)
    if version < 1:
        return 0
    every = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    network = 0b11 if version >= 4 else 0  # no TCP
    scopes = 0b11 if version >= 6 else 0  # no abstract sockets of others, no signals to others
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(_CREATE, struct.pack("QQQ", every, network, scopes), size, 0)
    if rules < 0:
        return 0
    for path, access in [*_readable(), (directory, every), ("/dev/null", _READ | _WRITE)]:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not Path(path).is_dir():
            access &= ~_LIST
        libc.syscall(_ADD, rules, 1, struct.pack("=Qi", access & every, opened), 0)
        os.close(opened)
    done: bool = libc.syscall(_RESTRICT, rules, 0) == 0
    os.close(rules)
    return version if done else 0


def _readable() -> Iterator[tuple[str, int]]:
    """Paths with their rights: the standard library without its packages, and what it loads.

    The folder of the standard library holds that of the packages, and a right to a folder is one to
    all that is below: so each entry gets its own.
    """
    for library in sys.path:
        if Path(library).is_dir():
            yield library, _LIST
            for entry in os.scandir(library):
                if entry.name not in _LEFT_OUT:
                    yield entry.path, _READ
    multiarch = getattr(sys.implementation, "_multiarch", "")
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{sys.base_prefix}/lib"):
        if multiarch and Path(folder, multiarch).is_dir():
            yield f"{folder}/{multiarch}", _READ
        if Path(folder).is_dir():
            for entry in os.scandir(folder):
                if ".so" in entry.name:
                    yield entry.path, _READ
    for path in ("/usr/share/zoneinfo", "/usr/lib/locale", "/etc/ld.so.cache", "/dev/urandom"):
        yield path, _READ
