"""The system calls that the kernel refuses to foreign code, and seccomp's filter of them.

Standard library alone.
"""

import ctypes
import os
import struct
from collections.abc import Sequence

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
            "sched_setattr": 314, "memfd_create": 319, "socketpair": 53, "sendto": 44,
            "sendmsg": 46, "sendmmsg": 307, "ioctl": 16, "open": 2, "openat": 257,
            "prctl": 157,
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
            "move_pages": 239, "sched_setattr": 274, "memfd_create": 279, "socketpair": 199,
            "sendto": 206, "sendmsg": 211, "sendmmsg": 269, "ioctl": 29, "openat": 56,
            "prctl": 167,
        },
    ),
}  # fmt: skip
_EVERYWHERE = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "pidfd_open": 434,
    "clone3": 435,
    "openat2": 437,
    "memfd_secret": 447,
    "setxattrat": 463,
    "removexattrat": 466,
    "pidfd_getfd": 438,
    "fchmodat2": 452,
}
_PERMISSION, _NO_SUCH_CALL = 1, 38
_LOAD, _AND, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_REFUSE = (_RETURN, 0, 0, _FAIL | _PERMISSION)
_CLONE_THREAD = 0x10000
_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: who is sent signals
_OF_THE_PARENT = (1, 4)  # whether to end with it, and who may trace
_UNIX, _STREAM = 1, 1
_TRUNCATE, _ACCESS_MODE = 0o1000, 0o3

_Step = tuple[int, int, int, int]


def restrict_calls(libc: ctypes.CDLL) -> bool:
    """No network, no other process, no signals to others, no change of rights.

    Returns:
        Whether the kernel enforces it: not on architectures whose calls stand not in our table.
    """
    if os.uname().machine not in _NUMBERS:
        return False
    architecture, numbers = _NUMBERS[os.uname().machine]
    program = b"".join(
        struct.pack("HBBI", *step) for step in _filter(architecture, numbers | _EVERYWHERE)
    )
    buffer = ctypes.create_string_buffer(program)
    description = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(22, 2, description, 0, 0) == 0)


def _filter(architecture: int, numbers: dict[str, int]) -> list[_Step]:
    """The filter's steps: operation, skip if true, skip if false, operand."""
    steps = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        _REFUSE,
        (_LOAD, 0, 0, 0),  # the call's number
        (_AT_LEAST, 0, 1, 0x40000000),
        _REFUSE,
        (_EQUAL, 0, 1, numbers.pop("clone3")),
        (_RETURN, 0, 0, _FAIL | _NO_SUCH_CALL),  # C libraries then use clone
    ]
    me = os.getpid()
    for name, allowed in (
        ("clone", [_argument(0), (_ANY_BIT, 1, 0, _CLONE_THREAD), _REFUSE]),
        ("kill", [_argument(0), (_EQUAL, 1, 0, me), _REFUSE]),
        ("tgkill", [_argument(0), (_EQUAL, 1, 0, me), _REFUSE]),
        ("fcntl", [_argument(1), *_none_of(_OWNERS)]),
        ("prlimit64", _null(2)),  # to ask for limits, not to set them
        ("prctl", [_argument(0), *_none_of(_OF_THE_PARENT)]),
        # Event loops wake themselves by a stream, which reaches its other end alone. A datagram
        # socket could send to any socket of the machine.
        (
            "socketpair",
            [
                _argument(0),
                *((_EQUAL, 1, 0, _UNIX), _REFUSE),
                _argument(1),
                *((_AND, 0, 0, 0xF), (_EQUAL, 1, 0, _STREAM), _REFUSE),
            ],
        ),
        ("sendto", _null(4)),  # along a stream, to no address
        # what sockets are asked: network devices, and who is sent signals
        ("ioctl", [_argument(1), (_AND, 0, 0, 0xFF00), *_none_of([0x8900])]),
        # Landlock before its third version takes a file opened for reading as one to be emptied
        ("open", [_argument(1), *_not_emptied()]),
        ("openat", [_argument(2), *_not_emptied()]),
    ):
        if name in numbers:
            checks = [*allowed, (_RETURN, 0, 0, _ALLOW)]
            steps += [(_EQUAL, 0, len(checks), numbers.pop(name)), *checks]
    for refused in sorted(numbers.values()):
        steps += [(_EQUAL, 0, 1, refused), _REFUSE]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _argument(index: int, half: int = 0) -> _Step:
    """Load the lower half of an argument, or its upper one."""
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * half)


def _none_of(values: Sequence[int]) -> list[_Step]:
    """Refuse what is one of some values."""
    checks = [(_EQUAL, len(values) - i - 1, 0, value) for i, value in enumerate(values)]
    return [*checks[:-1], (_EQUAL, 0, 1, values[-1]), _REFUSE]


def _null(index: int) -> list[_Step]:
    """Refuse a pointer."""
    return [
        *(_argument(index), (_EQUAL, 1, 0, 0), _REFUSE),
        *(_argument(index, half=1), (_EQUAL, 1, 0, 0), _REFUSE),
    ]


def _not_emptied() -> list[_Step]:
    return [(_AND, 0, 0, _TRUNCATE | _ACCESS_MODE), *_none_of([_TRUNCATE])]
