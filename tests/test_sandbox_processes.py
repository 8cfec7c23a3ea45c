"""What the sandbox's processes can reach, and that they end: in time, and with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from icl_locate.sandbox import calls, confine, files, run_python

HONEST = "\ndef add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3"
BY_KERNEL = ("files", "network and processes")


def run(code, tests=TESTS, **options):
    return run_python(code, tests=tests, **{"timeout": 10.0, **options})


needs_kernel = pytest.mark.skipif(
    run("", "").protection != BY_KERNEL, reason="this machine has no Landlock or no seccomp"
)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def ours(home):
    """The living processes of runs below a directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(home) in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


SILENT = {
    "pipes closed": "os.closerange(3, 64)",
    "everything closed": "os.closerange(0, 64)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "closed and stopped": "os.closerange(0, 64); os.kill(os.getpid(), signal.SIGSTOP)",
    "deaf": "[signal.signal(n, signal.SIG_IGN) for n in range(1, 30) if n not in (9, 19)]",
}


@on_linux
@pytest.mark.parametrize("wall", ["sealed", "shared"])
@pytest.mark.parametrize("how", SILENT)
def test_no_silence_outlasts_the_limit(how, wall, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = f"import os, signal, time\ndef add(a, b):\n    {SILENT[how]}\n    time.sleep(600)"
    start = time.monotonic()
    result = run(code, timeout=1.0, wall=wall)
    assert not result.passed and result.status in ("timeout", "exited")
    assert time.monotonic() - start < 15
    assert not ours(tmp_path) and not list(tmp_path.iterdir())


PARENT = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from icl_locate.sandbox import run_python
run_python(sys.argv[2], tests="", timeout=300.0, wall=sys.argv[3])
"""
BUSY = {
    "asleep": "import time; time.sleep(300)",
    "stopped": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "asking to survive": (
        "import ctypes, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        "open('made', 'w').write('x')\ntime.sleep(300)"
    ),
}


@on_linux
@pytest.mark.parametrize(("how", "wall"), [*((h, "sealed") for h in BUSY), ("asleep", "shared")])
def test_nothing_survives_a_killed_parent(how, wall, tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path), BUSY[how], wall]
    parent = subprocess.Popen(command)
    wait_for(lambda: list(tmp_path.glob("icl_sandbox_*/code")))
    wait_for(lambda: len(ours(tmp_path)) >= (4 if wall == "sealed" else 3))
    parent.kill()
    parent.wait()
    wait_for(lambda: not ours(tmp_path) and not list(tmp_path.iterdir()))


@on_linux
def test_a_killed_keeper_takes_its_processes_along(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(run, BUSY["asking to survive"], timeout=60.0)
        wait_for(lambda: list(tmp_path.glob("icl_sandbox_*/code/made")))
        keeper = next(p for p in psutil.Process().children() if p in ours(tmp_path))
        keeper.kill()
        assert result.result(30).status == "exited"
    wait_for(lambda: not ours(tmp_path))
    assert not list(tmp_path.iterdir())


def test_runs_do_not_end_with_the_thread_beside_them():
    quick = threading.Thread(target=run, args=(HONEST,))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(run, f"import time; time.sleep(1.5)\n{HONEST}", timeout=30.0)
        quick.start()
        quick.join()
        assert slow.result(40).passed
    assert run(HONEST).passed  # from a thread that did not start the first ones


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(BUSY["asleep"], timeout=60.0)
    assert not ours(tmp_path) and not list(tmp_path.iterdir())


REACHES_OUT = {
    "datagram pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "sequenced pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)",
    "raw datagram pair": (
        "r = (ctypes.c_int * 2)(); assert libc.socketpair(1, 2 | 0o4000 | 0o2000000, 0, r) == 0"
    ),
    "sendto": "socket.socketpair()[0].sendto(b'x', '\\0abstract')",
    "sendmsg": "socket.socketpair()[0].sendmsg([b'x'])",
    "connect": "socket.socketpair()[0].connect('\\0abstract')",
    "owner of a socket": (
        "fcntl.ioctl(socket.socketpair()[0], 0x8902, struct.pack('i', os.getppid()))"
    ),
    "owner of a pipe": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
    "survival": "assert libc.prctl(1, 0, 0, 0, 0) == 0",
    "to be traced": "assert libc.prctl(4, 1, 0, 0, 0) == 0",
    "emptied for reading": "os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
}


@needs_kernel
@pytest.mark.parametrize("name", REACHES_OUT)
def test_no_socket_and_no_signal_reaches_out(name):
    code = "import ctypes, fcntl, os, socket, struct\nlibc = ctypes.CDLL(None)\n"
    result = run(f"{code}{REACHES_OUT[name]}{HONEST}")
    assert not result.passed and result.status in ("error", "failed"), result


@needs_kernel
def test_nothing_is_sent_to_a_socket_outside(tmp_path):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outside:
        outside.bind(str(tmp_path / "socket"))
        outside.settimeout(0.2)
        pair = "import socket\na, b = socket.socketpair(type=socket.SOCK_DGRAM)"
        send = f"a.sendto(b'x', {outside.getsockname()!r})"
        assert not run(f"{pair}\n{send}{HONEST}").passed
        with pytest.raises(TimeoutError):
            outside.recv(1)


def test_streams_between_a_program_and_itself_are_its_own():
    code = "import socket\na, b = socket.socketpair()\na.send(b'x')\nassert b.recv(1) == b'x'"
    assert run(code + HONEST).passed


def test_what_holds_a_process_is_said_for_each_kernel():
    seccomp_alone = "network and processes by seccomp alone"
    assert confine.protection(7, filtered=True) == confine.protection(6, filtered=True) == BY_KERNEL
    for version in (1, 2, 3, 4, 5):
        assert confine.protection(version, filtered=True) == ("files", seccomp_alone)
    assert confine.protection(0, filtered=True) == (seccomp_alone, "audit hooks")
    assert confine.protection(0, filtered=False) == ("audit hooks",)
    assert confine.protection(6, filtered=False) == ("files", "audit hooks")
    assert confine.protection(2, filtered=False)[0] == "files, but for emptying them"


def test_the_filter_is_whole_on_every_architecture():
    for architecture, numbers in calls._NUMBERS.values():
        table = numbers | calls._EVERYWHERE
        steps = calls._filter(architecture, dict(table))
        assert len(steps) < 4096
        for i, (operation, if_true, if_false, _) in enumerate(steps):
            assert i + 1 + max(if_true, if_false) < len(steps) or operation == calls._RETURN
        asked = {operand for operation, *_, operand in steps if operation == calls._EQUAL}
        assert set(table.values()) <= asked


PACKAGES = [path for path in sys.path if Path(path).name in files.PACKAGES]
PACKAGES += [f"{sys.base_prefix}/lib/python3.{sys.version_info.minor}/site-packages"]
PACKAGES += ["/usr/lib/python3/dist-packages"]


@needs_kernel
@pytest.mark.parametrize("folder", PACKAGES)
def test_no_folder_of_packages_can_be_read(folder):
    found = sorted(Path(folder).glob("*/__init__.py"))
    if not found:
        pytest.skip("there is nothing in it")
    assert not run(f"open({str(found[0])!r}).read(){HONEST}").passed
    names = [path.parent.name for path in found]
    code = (
        f"import importlib, sys\nsys.path.append({folder!r})\nfor name in {names[:20]!r}:\n"
        "    if name not in sys.stdlib_module_names:\n"
        "        try: importlib.import_module(name)\n"
        "        except (ImportError, OSError): continue\n"
        "        print('IMPORTED', name)"
    )
    result = run(code + HONEST)
    assert result.passed and "IMPORTED" not in result.output, result


@needs_kernel
def test_the_standard_library_is_all_there():
    code = (
        "import asyncio, bz2, ctypes, decimal, hashlib, json, locale, lzma, sqlite3, ssl\n"
        "import tempfile, unittest.mock, xml.dom.minidom, zipfile, zlib, concurrent.futures\n"
        "print(sqlite3.connect(':memory:').execute('select 1').fetchall())\n"
        "with tempfile.TemporaryFile() as file: file.write(b'x')"
    )
    result = run(code + HONEST)
    assert result.passed, result


def test_audit_hooks_keep_packages_closed(tmp_path):
    audit = confine._auditor(str(tmp_path))
    for folder in files.PACKAGES:
        path = str(tmp_path / folder / "numpy" / "__init__.py")
        with pytest.raises(PermissionError, match="is not for code in the sandbox"):
            audit("open", (path, "r", os.O_RDONLY))
        with pytest.raises(PermissionError, match="is not for code in the sandbox"):
            audit("import", ("numpy", path, None, None, None))
    audit("import", ("math", None, None, None, None))
