"""The sandbox: honest code passes, nothing else does, and nothing outside is touched."""

import gzip
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from icl_locate.errors import SandboxError
from icl_locate.sandbox import confine, run_python, wire

DATA = Path(__file__).parents[2] / "shared" / "data"
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
HONEST = "def add(a, b):\n    return a + b\n"
BY_KERNEL = ("files", "network and processes")


def run(code, tests=TESTS, **options):
    return run_python(code, tests=tests, **{"timeout": 10.0, **options})


needs_kernel = pytest.mark.skipif(
    run("", "").protection != BY_KERNEL, reason="this machine has no Landlock or no seccomp"
)


def test_right_code_passes_and_says_what_held_it():
    result = run(HONEST + "print('loaded')")
    assert result.passed and result.status == "passed" and result.output == "loaded\n"
    assert set(result.protection) <= {*BY_KERNEL, "audit hooks"} and result.protection


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        ("def add(a, b): return a - b", "failed", "AssertionError"),
        ("def add(a, b) return", "error", "expected ':'"),
        ("def add(a, b): raise KeyError('no')", "error", "KeyError: 'no'"),
        ("def plus(a, b): return a + b", "error", "NameError"),
        ("while True: pass", "timeout", ""),
        ("def add(a, b):\n  while True: pass", "timeout", ""),
        ("x = 'a' * 10**10", "error", "MemoryError"),
        ("x = [0]\nwhile True: x += x", "error", "MemoryError"),
        ("def add(a, b): return add(a, b)", "error", "RecursionError"),
        ("while True: print('x' * 10**5)", "output", "xxx"),
    ],
)
def test_wrong_code_fails_for_its_reason(code, status, word):
    result = run(code, timeout=2.0)
    assert (result.passed, result.status) == (False, status)
    assert word in result.output and len(result.output) < 100_000


CHEATS = {
    "os._exit": "import os; os._exit(0)",
    "os._exit in a call": "import os\ndef add(a, b): os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "sys.exit in a call": "import sys\ndef add(a, b): sys.exit(0)",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)",
    "a token printed": "print('passed'); print('OK'); print('[\"passed\", \"\"]')",
    "a token written everywhere": (
        "import os\nfor fd in range(32):\n"
        '    try: os.write(fd, b\'["passed", ""]\')\n'
        "    except OSError: pass"
    ),
    "assert patched": (
        "import builtins\nbuiltins.AssertionError = type('A', (Exception,), {})\n"
        "def add(a, b): return 7"
    ),
    "exec patched": "import builtins\nbuiltins.exec = lambda *a: None\ndef add(a, b): return 7",
    "SystemExit in a thread": (
        "import threading\ndef stop(): raise SystemExit(0)\n"
        "threading.Thread(target=stop).start()\ndef add(a, b): return 7"
    ),
    "an object that equals everything": (
        "class Any:\n    def __eq__(self, other): return True\n"
        "    def __hash__(self): return 3\ndef add(a, b): return Any()"
    ),
    "mock.ANY": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "an int that equals everything": (
        "class Any(int):\n    def __eq__(self, other): return True\n"
        "    def __hash__(self): return 3\ndef add(a, b): return Any(7)"
    ),
    "frames": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n"
        "    frame.f_globals.update(check=None, main=None)\n    frame = frame.f_back\n"
        "def add(a, b): return 7"
    ),
    "the checker's modules": (
        "import sys\nfor module in list(sys.modules.values()):\n"
        "    for name in ('check', 'Peer', 'exec', 'names_for'):\n"
        "        if hasattr(module, name): setattr(module, name, lambda *a, **k: 3)\n"
        "def add(a, b): return 7"
    ),
    "a killed parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "a builtin shadowed": "def add(a, b): return 7\ndef abs(x): return 0",
}


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(name):
    tests = TESTS if name != "a builtin shadowed" else "assert abs(add(1, 2) - 3) < 1"
    result = run(CHEATS[name], tests, timeout=5.0)
    assert not result.passed and result.status != "passed"


def test_a_cheat_that_speaks_the_protocol_gains_nothing():
    shout = (
        "import os, json\n"
        "def send(message):\n"
        "    data = json.dumps(message).encode()\n"
        "    for fd in range(3, 32):\n"
        "        try: os.write(fd, len(data).to_bytes(4, 'big') + data)\n"
        "        except OSError: pass\n"
    )
    forged = [
        ["answer", ["standard", "unittest.mock", "ANY"], []],
        ["answer", ["standard", "no.such", "x"], []],
        ["call", ["standard", "builtins", "exec"], ["tuple", "raise SystemExit"], ["dict"]],
        ["apply", "getattr", ["yours", 0], "__globals__"],
        ["answer"],
        {"passed": True},
        "passed",
    ]
    for message in forged:
        code = f"{shout}def add(a, b):\n    send({message!r})\n    return 7"
        assert not run(code, timeout=3.0).passed, message


FIND_PEER = """
import sys
frame, peer = sys._getframe(), None
while frame and peer is None:
    this = frame.f_locals.get("self")
    peer = this if type(this).__name__ == "Peer" else None
    frame = frame.f_back
forge = "import os, sys\\nos.write(int(sys.argv[4]), b'[\\"passed\\", \\"\\"]')\\nos._exit(0)"
"""
INSIDE = {
    "call exec": "peer.ask('call', exec, (forge,), {})",
    "call a given thing's attribute": "peer.ask('apply', 'getattr', peer, '__class__')",
    "an error that runs code": (
        "peer._send(['error', ['standard', 'builtins', 'exec'], [forge], 'x'])"
    ),
    "an answer that is eval": "peer._send(['answer', ['standard', 'builtins', 'eval'], []])",
    "exec by another name": "f = exec",
    "mock's class": "from unittest.mock import _ANY as f",
    "eval by another name": "from builtins import eval as f",
    "exit by another name": "from os import _exit as f",
    "the test's own words": "import unittest.mock as math",
}


@pytest.mark.parametrize("name", INSIDE)
def test_no_way_leads_into_the_checker(name):
    result = run(f"{FIND_PEER}\n{INSIDE[name]}", "assert f(2) == 4\nassert f(3) == 9", timeout=5.0)
    assert not result.passed, result


@pytest.mark.parametrize("handler", ["except Exception:", "except:", "except BaseException:"])
def test_a_process_that_ends_is_not_an_error_that_tests_may_expect(handler):
    tests = f"try:\n    f(-1)\n{handler}\n    pass\nelse:\n    raise AssertionError"
    result = run("import os\ndef f(x): os._exit(0)", tests)
    assert not result.passed and result.status == "exited"
    assert run("def f(x): raise ValueError", tests).passed


def test_only_what_is_tested_may_shadow_a_builtin():
    code = "def sum(a, b): return a + b\ndef set(x): return 0"
    tests = "assert set(sum([3], [4])) == set([9])"
    assert not run(code, tests).passed
    assert not run(code, tests, entry_point="sum").passed
    assert run(code, "assert sum([3], [4]) == [3, 4]", entry_point="sum").passed


@needs_kernel
@pytest.mark.parametrize(
    "code",
    [
        "import os; os.sched_setaffinity(os.getppid(), {0})",
        "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 5)",
        "import os; os.memfd_create('x')",
        "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
        "import ctypes; assert ctypes.CDLL(None).shmget(0x7e57, 1 << 20, 0o1600) >= 0",
        "import ctypes; assert ctypes.CDLL(None).msgget(0x7e57, 0o1600) >= 0",
        "kept = [open(str(i), 'w') for i in range(40)]",
        "open('a', 'wb').write(b'x' * (3 << 20))",
    ],
)
def test_the_kernel_refuses(code):
    assert not run(f"{code}\n{HONEST}").passed


def test_deep_and_closed_directories_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    deep = "import os\nfor i in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n"
    closed = "import os\nos.mkdir('h', 0o300)\nopen('h/a', 'w').write('x')\n"
    many = "for i in range(20000): open(str(i), 'w').close()\n"
    for code in (deep, closed, many):
        assert run(code + HONEST, timeout=30.0).status in ("passed", "disk", "error")
        assert list(tmp_path.iterdir()) == []


HARM = {
    "write": "open({outside!r}, 'w').write('changed')",
    "append": "open({outside!r}, 'a').write('changed')",
    "truncate": "import os; os.truncate({outside!r}, 0)",
    "delete": "import os; os.remove({outside!r})",
    "delete a tree": "import shutil; shutil.rmtree({folder!r})",
    "rename": "import os; os.rename({outside!r}, {outside!r} + '.gone')",
    "rights": "import os; os.chmod({outside!r}, 0)",
    "link": "import os; os.symlink({outside!r}, {folder!r} + '/link')",
    "read": "print(open({outside!r}).read())",
    "signal": "import os; os.kill({parent}, 15)",
    "signal a group": "import os; os.killpg(os.getpgid({parent}), 15)",
    "socket": "import socket; socket.create_connection(('127.0.0.1', {port}), 2).send(b'x')",
    "process": "import subprocess; subprocess.run(['touch', {folder!r} + '/made'])",
    "system": "import os; assert os.system('touch ' + {folder!r} + '/made') == 0",
    "environment": "import os; os.environ['ICL_SECRET']",
    "limits": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (9999, 9999))",
}


@needs_kernel
@pytest.mark.parametrize("name", HARM)
def test_nothing_outside_is_touched(name, tmp_path, monkeypatch):
    import socket

    outside = tmp_path / "file"
    outside.write_text("precious")
    mode = outside.stat().st_mode
    monkeypatch.setenv("ICL_SECRET", "secret")
    received = []
    signal.signal(signal.SIGTERM, lambda *_: received.append("signal"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        code = HARM[name].format(
            outside=str(outside),
            folder=str(tmp_path),
            parent=os.getpid(),
            port=server.getsockname()[1],
        )
        result = run(code + "\n" + HONEST)
        with pytest.raises(TimeoutError):
            server.accept()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert not result.passed and "precious" not in result.output and not received
    assert outside.read_text() == "precious" and outside.stat().st_mode == mode
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@needs_kernel
@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True: os.fork()",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import threading as t, time\nwhile True: t.Thread(target=time.sleep, args=(99,)).start()",
        "n = 0\nwhile True:\n    n += 1\n    open(str(n), 'w').write('x' * 10**7)",
        "open('big', 'w').write('x' * 10**8)",
    ],
)
def test_bombs_are_harmless(bomb):
    start = time.monotonic()
    result = run(bomb, timeout=2.0)
    assert not result.passed and time.monotonic() - start < 10
    left = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not any("icl_sandbox_" in word for command in left for word in command)


def test_files_below_the_temporary_directory_may_be_written():
    assert run("open('a', 'w').write('1')\n" + HONEST).passed


WALL = r"""\
from collections import namedtuple
P = namedtuple('P', 'x y')
------
assert P(1, 2) == (1, 2) and P(3, 4).y == 4
======
class N:
    def __init__(s, v): s.v, s.next = v, None
def walk(n):
    return [n.v] + (walk(n.next) if n.next else [])
------
a, b = N(1), N(2)
a.next = b
assert walk(a) == [1, 2] and isinstance(a, N) and a.next.v == 2
======
def sort(xs): xs.sort()
------
xs = [3, 1]
sort(xs)
assert xs == [1, 3]
======
def grow(d, s): d['a'] = [1]; s.add(2)
------
d, s = {}, {1}
grow(d, s)
assert d == {'a': [1]} and s == {1, 2}
======
def gen(n):
    yield from range(n)
------
assert list(gen(3)) == [0, 1, 2] and next(gen(1)) == 0
======
def apply(f, x): return f(x)
------
assert apply(lambda x: x + 1, 2) == 3 and apply(len, 'abc') == 3
======
class Bad(ValueError): pass
def f(): raise Bad('x')
------
try:
    f()
except ValueError as error:
    assert str(error) == 'x'
else:
    raise AssertionError
try:
    f()
except Bad:
    pass
======
def sum(a, b): return a + b
------
assert sum(10, 15) == 25
======
import math
from fractions import Fraction
PI = 3.14
def f(): return Fraction(1, 3), 1j, {1: {2}}, b'x', None, 10**5000
------
assert f() == (Fraction(1, 3), 1j, {1: {2}}, b'x', None, 10**5000) and math.floor(PI) == 3
======
from collections import Counter, defaultdict, deque
def f(): return Counter('aab'), defaultdict(list, a=[1]), deque([1])
------
c, d, q = f()
assert c['a'] == 2 and d == {'a': [1]} and list(q) == [1]
======
def make(n): return lambda x: x + n
------
assert make(2)(3) == 5
======
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class P:
    x: int
root = []
root[:] = [root, None]
------
assert P(3).x == 3
======
def keys(d): return d.keys(), list(d.values()), d.items()
def fill(xs): xs.append(1)
------
k, v, i = keys({'a': 1})
assert k == {'a'} and v == [1] and ('a', 1) in i
xs = []
fill(xs=xs)
assert xs == [1]
======
class V:
    def __init__(s, x): s.x = x
    def __add__(s, o): return V(s.x + o.x)
    def __eq__(s, o): return s.x == o.x
    def __repr__(s): return f'V({s.x})'
------
assert V(1) + V(2) == V(3) and repr(V(1)) == 'V(1)' and V(1) != V(2)
======
def f(x): return float('nan') if x else float('-inf')
------
import math
assert math.isnan(f(1)) and f(0) == -math.inf
"""


@pytest.mark.parametrize("pair", WALL.split("======\n"))
def test_the_wall_between_code_and_tests_is_not_felt(pair):
    result = run(*pair.split("------\n"))
    assert result.passed, result.output


def test_bad_arguments_are_refused():
    for seconds in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(SandboxError, match=f"timeout is {seconds}"):
            run(HONEST, timeout=seconds)
    with pytest.raises(SandboxError, match="memory is 1000: expected a whole number from 67108864"):
        run(HONEST, memory=1000)
    with pytest.raises(SandboxError, match="the tests are no Python: expected ':'"):
        run(HONEST, "if True")


def test_audit_hooks_stand_in_where_the_kernel_does_not_help(tmp_path):
    audit = confine._auditor(str(tmp_path))
    inside, outside = str(tmp_path / "a"), str(tmp_path.parent / "a")
    audit("open", (inside, "w", os.O_WRONLY))
    audit("open", (outside, "r", os.O_RDONLY))
    audit("os.remove", (inside, -1))
    for event, *arguments in (
        ("open", outside, "w", os.O_WRONLY),
        ("open", outside, None, os.O_CREAT),
        ("os.remove", outside, -1),
        ("os.rename", inside, outside, -1, -1),
        ("socket.connect", None, ("127.0.0.1", 1)),
        ("subprocess.Popen", "ls"),
        ("os.kill", 1, 9),
        ("ctypes.dlopen", None),
    ):
        with pytest.raises(PermissionError, match="is not for code in the sandbox"):
            audit(event, tuple(arguments))


def test_values_cross_the_wall_as_they_are():
    read_fd, write_fd = os.pipe()
    peer = wire.Peer(read_fd, write_fd, trusting=False)
    for value in (
        None,
        True,
        1.5,
        "é\ud800",
        (1, [2, {3}]),
        {(1,): frozenset([2])},
        range(3),
        bytearray(b"x"),
    ):
        assert peer.decode(json.loads(json.dumps(peer.encode(value)))) == value
    os.close(read_fd)
    os.close(write_fd)


@pytest.mark.skipif(not DATA.is_dir(), reason="the published test data are not here")
def test_published_solutions_pass_and_broken_ones_fail():
    with gzip.open(DATA / "human-eval" / "HumanEval.jsonl.gz", "rt") as file:
        problems = [json.loads(line) for line in file][::8]
    for problem in problems:
        tests = f"{problem['test']}\ncheck({problem['entry_point']})"
        assert run(problem["prompt"] + problem["canonical_solution"], tests).passed
        assert not run(problem["prompt"] + "    return None", tests).passed
