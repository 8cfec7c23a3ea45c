"""What a process gives up before it runs foreign code. Standard library alone.

On Linux the kernel enforces it: Landlock for files, seccomp for system calls, no capabilities.
Elsewhere limits of resources hold, and audit hooks stop what is not written to get around them.
"""

import ctypes
import os
import platform
import resource
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

_NUMBERS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "clone": 56,
            "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "truncate": 76, "chmod": 90,
            "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "ptrace": 101, "mknod": 133,
            "chroot": 161, "mount": 165, "umount2": 166, "setrlimit": 160, "setxattr": 188,
            "lsetxattr": 189, "fsetxattr": 190, "tkill": 200, "keyctl": 250, "add_key": 248,
            "request_key": 249, "fchownat": 260, "mknodat": 259, "fchmodat": 268, "unshare": 272,
            "utimensat": 280, "accept4": 288, "perf_event_open": 298, "prlimit64": 302,
            "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321,
            "execveat": 322, "userfaultfd": 323, "tgkill": 234, "rt_sigqueueinfo": 129,
            "rt_tgsigqueueinfo": 297, "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64,
            "msgget": 68, "fcntl": 72, "utime": 132, "setpriority": 141, "sched_setparam": 142,
            "sched_setscheduler": 144, "removexattr": 197, "lremovexattr": 198,
            "fremovexattr": 199, "sched_setaffinity": 203, "utimes": 235, "mq_open": 240,
            "ioprio_set": 251, "migrate_pages": 256, "futimesat": 261, "move_pages": 279,
            "sched_setattr": 314, "memfd_create": 319,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "connect": 203, "accept": 202, "bind": 200, "listen": 201, "clone": 220,
            "execve": 221, "kill": 129, "truncate": 45, "fchmod": 52, "fchmodat": 53,
            "fchownat": 54, "fchown": 55, "ptrace": 117, "mknodat": 33, "chroot": 51, "mount": 40,
            "umount2": 39, "setrlimit": 164, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7,
            "tkill": 130, "keyctl": 219, "add_key": 217, "request_key": 218, "unshare": 97,
            "utimensat": 88, "accept4": 242, "perf_event_open": 241, "prlimit64": 261,
            "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280,
            "execveat": 281, "userfaultfd": 282, "tgkill": 131, "rt_sigqueueinfo": 138,
            "rt_tgsigqueueinfo": 240, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
            "fcntl": 25, "ioprio_set": 30, "sched_setparam": 118, "sched_setscheduler": 119,
            "sched_setaffinity": 122, "setpriority": 140, "mq_open": 180, "msgget": 186,
            "semget": 190, "shmget": 194, "shmctl": 195, "shmat": 196, "migrate_pages": 238,
            "move_pages": 239, "sched_setattr": 274, "memfd_create": 279,
        },
    ),
}  # fmt: skip
_EVERYWHERE = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "pidfd_open": 434,
    "clone3": 435,
    "memfd_secret": 447,
    "setxattrat": 463,
    "removexattrat": 466,
    "pidfd_getfd": 438,
    "fchmodat2": 452,
}
_PERMISSION, _NO_SUCH_CALL = 1, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_CLONE_THREAD = 0x10000
_READ = 0b1101  # Landlock: execute, read a file, list a directory
_WRITE_FILE = 0b10


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
        What the kernel enforces: of "files", "network and processes"; "audit hooks" where it
        enforces not all of it.
    """
    enforced: list[str] = []
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(38, 1, 0, 0, 0)  # no new privileges, which Landlock and seccomp ask for
        libc.prctl(4, 0, 0, 0, 0)  # not to be traced, nor its memory written
        if _restrict_files(libc, directory):
            enforced.append("files")
        _drop_capabilities(libc)
        if _restrict_calls(libc):
            enforced.append("network and processes")
    if len(enforced) < 2:
        sys.addaudithook(_auditor(directory))
        enforced.append("audit hooks")
    return tuple(enforced)


def _restrict_files(libc: ctypes.CDLL, directory: str) -> bool:
    """Landlock: read what Python needs, write below one directory."""
    create, add, restrict = 444, 445, 446
    version = libc.syscall(create, None, 0, 1)
    if version < 1:
        return False
    every = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    scopes = 0b11 if version >= 6 else 0  # no abstract sockets, no signals to others
    network = 0b11 if version >= 4 else 0
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(create, struct.pack("QQQ", every, network, scopes), size, 0)
    if rules < 0:
        return False
    readable = {sys.base_prefix, sys.prefix, str(Path(__file__).parent)}
    readable |= {"/usr", "/lib", "/lib64", "/bin", "/proc/self"}
    readable |= {sysconfig.get_paths()["stdlib"]}
    granted = [(path, _READ) for path in readable]
    granted += [(directory, every), ("/dev/null", _READ | _WRITE_FILE), ("/dev/urandom", _READ)]
    for path, access in granted:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not Path(path).is_dir():
            access &= ~0b1000
        libc.syscall(add, rules, 1, struct.pack("=Qi", access & every, opened), 0)
        os.close(opened)
    done: bool = libc.syscall(restrict, rules, 0) == 0
    os.close(rules)
    return done


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24))


def _restrict_calls(libc: ctypes.CDLL) -> bool:
    """Seccomp: no network, no other process, no signals to others, no change of rights."""
    if platform.machine() not in _NUMBERS:
        return False
    architecture, numbers = _NUMBERS[platform.machine()]
    program = b"".join(
        struct.pack("HBBI", *step) for step in _filter(architecture, numbers | _EVERYWHERE)
    )
    buffer = ctypes.create_string_buffer(program)
    description = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(22, 2, description, 0, 0) == 0)


def _filter(architecture: int, numbers: dict[str, int]) -> list[tuple[int, int, int, int]]:
    """The filter's steps: operation, skip if true, skip if false, operand."""
    number, low, high = 0, 16, 20  # offsets: the call's number, an argument's halves
    refuse = (_RETURN, 0, 0, _FAIL | _PERMISSION)
    steps = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        refuse,
        (_LOAD, 0, 0, number),
        (_AT_LEAST, 0, 1, 0x40000000),
        refuse,
        (_EQUAL, 0, 1, numbers.pop("clone3")),
        (_RETURN, 0, 0, _FAIL | _NO_SUCH_CALL),  # C libraries then use clone
        (_EQUAL, 0, 4, numbers.pop("clone")),
        (_LOAD, 0, 0, low),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        refuse,
    ]
    for name in ("kill", "tgkill"):
        steps += [
            (_EQUAL, 0, 4, numbers.pop(name)),
            (_LOAD, 0, 0, low),
            (_EQUAL, 0, 1, os.getpid()),
            (_RETURN, 0, 0, _ALLOW),
            refuse,
        ]
    owners = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: who is sent signals
    steps += [
        (_EQUAL, 0, 6, numbers.pop("fcntl")),
        (_LOAD, 0, 0, low + 8),
        *((_EQUAL, len(owners) - i, 0, owner) for i, owner in enumerate(owners)),
        (_RETURN, 0, 0, _ALLOW),
        refuse,
    ]
    steps += [  # to ask for limits, not to set them: the third argument must be null
        (_EQUAL, 0, 6, numbers.pop("prlimit64")),
        (_LOAD, 0, 0, low + 16),
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, high + 16),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        refuse,
    ]
    for refused in sorted(numbers.values()):
        steps += [(_EQUAL, 0, 1, refused), refuse]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _auditor(directory: str) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook that refuses network, processes, signals, and writing outside a directory."""
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

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(network_and_processes) or event.startswith(others):
            raise PermissionError(f"{event} is not for code in the sandbox")
        if event.startswith(changing) and is_outside(arguments[:2]):
            raise PermissionError(f"{event} outside {home} is not for code in the sandbox")
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (writes or (isinstance(mode, str) and set(mode) & set("wax+"))) and is_outside(
                [path]
            ):
                raise PermissionError(f"{path!r} is not for code in the sandbox to write")

    return audit


def main(arguments: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Confine this process as its command line says.

    Returns:
        The file descriptors that it was given, and what the kernel enforces.
    """
    directory, seconds, memory, *descriptors = arguments
    limit_resources(seconds=float(seconds), memory=int(memory), file_bytes=1 << 21)
    return [int(descriptor) for descriptor in descriptors], confine(directory)
