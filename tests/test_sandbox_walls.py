"""Which wall judges: plain data across two processes, objects in one, and no cheat by either."""

import pytest

from icl_locate.errors import SandboxError
from icl_locate.sandbox import run_python
from icl_locate.sandbox.turned import turned_tests

OBJECTS = {
    "context manager": (
        "class Lock:\n    def __enter__(self): return 'held'\n"
        "    def __exit__(self, *error): return error[0] is KeyError\n"
        "def lock(): return Lock()",
        "with lock() as state:\n    assert state == 'held'\n    raise KeyError",
    ),
    "searched": (
        "class Even:\n    def __contains__(self, n): return n % 2 == 0\ndef even(): return Even()",
        "assert 4 in even() and 5 not in even()",
    ),
    "arithmetic with numbers": (
        "class Euro:\n    def __init__(self, cent): self.cent = cent\n"
        "    def __add__(self, cent): return Euro(self.cent + cent)\n"
        "    def __radd__(self, cent): return self + cent\n"
        "    def __neg__(self): return Euro(-self.cent)\n"
        "    def __mod__(self, n): return self.cent % n\n"
        "    def __float__(self): return self.cent / 100\n"
        "def euro(c): return Euro(c)",
        "assert (euro(150) + 7).cent == 157 and (1 + euro(1)).cent == 2\n"
        "assert float(-euro(150)) == -1.5 and euro(150) % 100 == 50",
    ),
    "sum of objects": (
        "class Vector:\n    def __init__(self, *v): self.v = v\n"
        "    def __add__(self, o): return Vector(*(a + b for a, b in zip(self.v, o.v)))\n"
        "    def __radd__(self, o): return self if o == 0 else NotImplemented\n",
        "assert sum([Vector(1, 2), Vector(3, 4)]).v == (4, 6)",
    ),
    "name of a type": ("class Leaf: pass\ndef leaf(): return Leaf()",
                       "assert type(leaf()).__name__ == 'Leaf'"),
    "coroutine": (
        "import asyncio\nasync def twice(x):\n    await asyncio.sleep(0)\n    return 2 * x",
        "import asyncio\nassert asyncio.run(twice(4)) == 8",
    ),
    "its own event loop": (
        "import asyncio\nasync def twice(x): return 2 * x\n"
        "def run(x): return asyncio.run(twice(x))",
        "assert run(3) == 6",
    ),
    "partial": (
        "def twice(g, x): return g(g(x))",
        "from functools import partial\nassert twice(partial(max, 3), 1) == 3",
    ),
    "bound and unbound methods": (
        "def each(g, words): return [g(word) for word in words]",
        "class Shout:\n    mark = '!'\n    def at(self, word): return word + self.mark\n"
        "assert each(Shout().at, ['a']) == ['a!'] and each(str.title, ['b']) == ['B']",
    ),
    "deep copy": (
        "class Bag:\n    def __init__(self): self.items = {'a': [1]}\ndef bag(): return Bag()",
        "from copy import deepcopy\nfirst = bag()\nsecond = deepcopy(first)\n"
        "second.items['a'].append(2)\nassert first.items == {'a': [1]}",
    ),
    "a list that is the object's": (
        "class Stack:\n    def __init__(self): self.items = []\n"
        "    def top(self): return self.items[-1]\ndef stack(): return Stack()",
        "s = stack()\ns.items.append(7)\nassert s.top() == 7",
    ),
    "a returned list that the code keeps": (
        "kept = []\ndef log(): return kept\ndef size(): return len(kept)",
        "log().append('x')\nassert size() == 1",
    ),
    "an argument's inner list": (
        "def clear(table):\n    for row in table: row.clear()",
        "row = [1]\nclear([row, [2]])\nassert row == []",
    ),
    "the same list": ("def fill(xs):\n    xs += [0]\n    return xs",
                      "mine = []\nassert fill(mine) is mine"),
    "objects of the tests": (
        "def depth(tree): return 0 if tree is None else 1 + depth(tree.inner)",
        "class Tree:\n    def __init__(self, inner=None): self.inner = inner\n"
        "assert depth(Tree(Tree())) == 2",
    ),
    "subclass in the tests": (
        "class Greeter:\n    def greet(self): return 'hello ' + self.who()",
        "class World(Greeter):\n    def who(self): return 'world'\n"
        "assert World().greet() == 'hello world'",
    ),
    "deleted attribute": (
        "class Box: pass\ndef box(): return Box()",
        "b = box()\nb.lid = 1\ndel b.lid\nassert not hasattr(b, 'lid')",
    ),
    "format of a subclass": (
        "class Metre(float): pass\ndef metre(): return Metre(2.5)",
        "assert f'{metre():.1f} m' == '2.5 m' and ' '.join(map(str, [metre()])) == '2.5'",
    ),
    "text of a subclass": ("class Tag(str): pass\ndef tag(): return Tag('p')",
                           "assert ', '.join([tag(), tag()]) == 'p, p'"),
    "attribute of an exception": (
        "class Refused(Exception):\n    def __init__(self, why):\n        super().__init__(why)\n"
        "        self.why = why\ndef ask(): raise Refused('late')",
        "try:\n    ask()\nexcept Refused as refused:\n    assert refused.why == 'late'\n"
        "else:\n    raise AssertionError",
    ),
    "what an error came from": (
        "def f():\n    try: {}['x']\n"
        "    except KeyError as error: raise OSError(2, 'gone') from error",
        "try:\n    f()\nexcept OSError as error:\n"
        "    assert isinstance(error.__cause__, KeyError) and error.errno == 2",
    ),
    "decorator": (
        "from functools import wraps\ndef twice(f):\n    @wraps(f)\n"
        "    def both(x): return f(f(x))\n    return both",
        "@twice\ndef add3(x):\n    return x + 3\nassert add3(1) == 7 and add3.__name__ == 'add3'",
    ),
    "asked what it can": (
        "class Bell:\n    def __reversed__(self): return iter('llab')\n"
        "    def __bytes__(self): return b'ding'\n    def __len__(self): return 4\n",
        "assert issubclass(Bell, object) and callable(Bell) and not callable(Bell())\n"
        "assert Bell() != 5 and bytes(Bell()) == b'ding' and [*reversed(Bell())][0] == 'l'",
    ),
    "unittest": (
        "class Point:\n    def __init__(self, x): self.x = x\n    def __neg__(self):\n"
        "        return Point(-self.x)\ndef point(x): return Point(x)",
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test(self): self.assertEqual((-point(2)).x, -2)\n"
        "suite = unittest.defaultTestLoader.loadTestsFromTestCase(T)\n"
        "done = unittest.TextTestRunner().run(suite)\n"
        "assert done.wasSuccessful()",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_judged_in_one_process_and_never_called_wrong(name):
    code, tests = OBJECTS[name]
    result = run_python(code, tests=tests, timeout=20.0)
    assert result.passed, result
    assert result.wall == ("sealed" if name == "its own event loop" else "shared")
    if result.wall == "shared" and name in ("searched", "the same list", "coroutine"):
        sealed = run_python(code, tests=tests, timeout=20.0, wall="sealed")
        assert (sealed.passed, sealed.status, sealed.wall) == (False, "unjudged", "sealed")
        assert "not to be judged across processes" in sealed.output


ACROSS = r"""\
from collections import namedtuple
Row = namedtuple('Row', 'a b c')
class Names(list): pass
------
assert Row(1, 2, 3)[1:] == (2, 3) and Names('xyz')[::2] == ['x', 'z']
======
from dataclasses import dataclass
@dataclass(frozen=True)
class Key:
    n: int
def keys(): return [Key(1), Key(2), Key(1)]
------
assert len(set(keys())) == 2 and {Key(2): 'two'}[keys()[1]] == 'two'
======
from enum import Enum, IntEnum
class Side(Enum):
    LEFT = 'l'
class Level(IntEnum):
    LOW = 1
def side(): return Side.LEFT
def level(): return Level.LOW
------
assert side() is Side.LEFT and side().value == 'l' and isinstance(level(), int) and level() == 1
======
class Cell:
    def __init__(self): self.n = 3
def cell(): return Cell()
------
assert cell().__class__ == Cell and vars(cell()) == {'n': 3}
======
def views(): return memoryview(b'ab'), ..., [int, KeyError]
------
a, b, (c, d) = views()
assert a == b'ab' and b is ... and c is int and d is KeyError
======
from collections import defaultdict
def table(): return defaultdict(list, a=[1]), defaultdict(lambda: 'none')
------
t, u = table()
t['b'].append(2)
assert t == {'a': [1], 'b': [2]} and u['x'] == 'none'
"""


@pytest.mark.parametrize("pair", ACROSS.split("======\n"))
def test_what_the_wall_forwards_needs_no_other(pair):
    code, tests = pair.split("------\n")
    result = run_python(code, tests=tests, timeout=20.0)
    assert result.passed and result.wall == "sealed", result


TAKE = """
import builtins, gc, types
def answer(*given):
    return [] if given[-2] == "load" else OWN
for thing in [f for f in gc.get_objects() if isinstance(f, types.FunctionType)]:
    if thing.__name__ == "serve" and thing.__code__.co_argcount > 1:
        thing.__globals__["OWN"] = dict(f=lambda *a: 0, **{own})
        thing.__code__ = answer.__code__
"""
OWN_NAMES = {
    "abs": "dict(abs=lambda x: 0)",
    "set and sorted": "dict(set=lambda x: 0, sorted=lambda x: 0)",
    "all builtins": "{'__builtins__': {'abs': lambda x: 0, 'set': lambda x: 0, 'len': len}}",
    "the tests' own names": "{'__name__': 'x', 'math': None, 'TOLERANCE': 9e9}",
}
TESTS_OF_0 = (
    "TOLERANCE = 1e-6\nassert abs(f([1.0, 2.0]) - 0.5) < TOLERANCE",
    "assert set(f(3)) == set([3])",
)


@pytest.mark.parametrize("own", OWN_NAMES)
def test_code_does_not_decide_what_the_tests_names_mean(own):
    code = TAKE.replace("{own}", OWN_NAMES[own])
    for tests in TESTS_OF_0:
        assert not run_python(code, tests=tests, entry_point="f").passed
        assert not run_python(code, tests=tests, wall="sealed").passed


def test_a_namespace_is_no_value():
    shout = (
        "import json, os\ndef f(x):\n    data = json.dumps(['answer', {'a': 1}, []]).encode()\n"
        "    for fd in range(3, 40):\n"
        "        try: os.write(fd, len(data).to_bytes(4, 'big') + data)\n"
        "        except OSError: pass\n"
    )
    result = run_python(shout, tests="assert f(1) == {'a': 1}")
    assert not result.passed and result.status == "exited"


def test_only_the_single_name_that_tests_use_may_shadow_a_builtin():
    code = "def set(x): return 0"
    assert not run_python(code, tests="assert set(sum([3], 1)) == set([9])").passed


# Whatever it is asked, it answers so that the tests use it as the wall does not forward.
EVERYTHING = """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 3
    def __contains__(self, item): return True
    def __sub__(self, other): return Any()
    def __rsub__(self, other): return Any()
    def __abs__(self): return 0.0
    def __round__(self, n=None): return Any()
    def __float__(self): return 0.0
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
def f(x): return Any()
"""
PLAIN = (
    "import math\ndef check(f):\n    assert abs(f(1.5) - 0.5) < 1e-6\n"
    "    assert round(f(2.25), 2) == 0.25, 'two'\n    assert abs(f(3.75) - 0.75) < 1e-6\ncheck(f)"
)
# It behaves across the wall, so as to be judged by the other.
FORGE = """
import os, sys
frame, alone = sys._getframe(), False
while frame:
    alone |= frame.f_code.co_filename.endswith("judge.py")
    frame = frame.f_back
def forge():
    for fd in range(3, 64) if alone else ():
        try: os.write(fd, b'["passed", ""]')
        except OSError: pass
"""
FALLBACK_CHEATS = {
    "an object that is everything": EVERYTHING,
    "a number that is everything": EVERYTHING.replace("class Any:", "class Any(float):"),
    "a small difference": (
        "class Near(float):\n    def __sub__(self, other): return 0.0\n"
        "    def __round__(self, n): return Right()\n"
        "class Right:\n    def __eq__(self, other): return True\ndef f(x): return Near()"
    ),
    "builtins patched": (
        f"{EVERYTHING}\nimport builtins, math\nbuiltins.abs = builtins.round = lambda *a: Any()\n"
        "builtins.AssertionError = type('Quiet', (Exception,), {})\n"
        "builtins.exec = builtins.compile = lambda *a, **k: None\nmath.fabs = abs"
    ),
    "modules replaced": (
        f"{EVERYTHING}\nimport sys, types\nfor name in list(sys.modules):\n"
        "    if name not in ('sys', 'builtins', 'types'):\n"
        "        sys.modules[name] = types.ModuleType(name)\n"
        "sys.modules['math'] = types.SimpleNamespace(isclose=lambda *a: True)"
    ),
    "the verdict forged": f"{EVERYTHING}\n{FORGE}\nforge()\nif alone: os._exit(0)",
    "the verdict forged in a call": (
        f"{FORGE}\n{EVERYTHING}\n"
        "def f(x):\n    forge()\n    if alone: os._exit(0)\n    return Any()"
    ),
    "the verdict forged by a thread": (
        f"{EVERYTHING}\n{FORGE}\nimport threading\nthread = threading.Thread(target=forge)\n"
        "def f(x):\n    if alone: thread.start(); thread.join(); os._exit(0)\n    return Any()"
    ),
    "the verdict forged at exit": (
        f"{EVERYTHING}\n{FORGE}\nimport atexit\natexit.register(forge)\n"
        "def f(x):\n    if alone: raise SystemExit(0)\n    return Any()"
    ),
    "descriptors closed": f"{EVERYTHING}\n{FORGE}\nif alone: os.closerange(0, 64)",
    "os._exit": f"{EVERYTHING}\nimport os\nAny.__abs__ = lambda self: os._exit(0)",
    "the judge patched": (
        f"{EVERYTHING}\nimport gc, types\ndef passed(*a): return 'passed', ''\n"
        "for thing in gc.get_objects():\n"
        "    if isinstance(thing, types.FunctionType) and thing.__name__ in "
        "('verdict_of', 'judge', 'doubts_about'):\n        thing.__code__ = passed.__code__"
    ),
    "frames": (
        f"{EVERYTHING}\nimport sys\nframe = sys._getframe()\nwhile frame:\n"
        "    frame.f_globals.update(verdict_of=lambda error: ('passed', ''), "
        "check=lambda *a: ('passed', ''))\n    frame = frame.f_back"
    ),
    "assertions jumped over": (
        f"{EVERYTHING}\nimport sys\ndef jump(frame, event, argument):\n"
        "    if event == 'line' and frame.f_code.co_name == 'check':\n"
        "        try: frame.f_lineno = max(n for *_, n in frame.f_code.co_lines() if n)\n"
        "        except ValueError: pass\n    return jump\n"
        "def f(x):\n    sys.settrace(jump)\n    sys._getframe(1).f_trace = jump\n    return Any()"
    ),
    "answers read off the tests": (
        f"{EVERYTHING}\nimport sys\nturn = []\ndef f(x):\n    consts = [c for c in "
        "sys._getframe(1).f_code.co_consts if isinstance(c, float)]\n"
        "    if consts[:2] != [1.5, 0.5] and 1.5 not in consts: return Any()\n"
        "    return consts[consts.index(x) + 1]"
    ),
    "a class that lies": EVERYTHING
    + "class Lie(Any):\n    __class__ = property(lambda self: float)\ndef f(x): return Lie()",
    "an identity": (
        f"{EVERYTHING}\nfrom collections import defaultdict\ndef f(x): return defaultdict(Any)"
    ),
    "a trace of its own in what it prints": EVERYTHING + "print('[\"passed\", \"\"]')",
}  # fmt: skip


@pytest.mark.parametrize("name", FALLBACK_CHEATS)
def test_no_cheat_gains_by_leaving_the_wall(name):
    result = run_python(FALLBACK_CHEATS[name], tests=PLAIN, timeout=20.0)
    assert not result.passed and result.status != "passed", result


IN_OTHER_WORDS = {
    "a loop": "for x, y in [(1.5, 0.5), (2.25, 0.25)]:\n    assert abs(f(x) - y) < 1e-6",
    "a variable": "right = 0.5\nassert -1e-6 < f(1.5) - right < 1e-6",
    "a square": "assert (f(1.5) - 0.5) ** 2 < 1e-9",
    "bounds": "assert 0.4 < f(1.5) < 0.6",
    "a bound": "assert f(1.5) >= 0.5\nassert f(1.5) <= 0.5",
    "a search": "assert 0.5 in f(1.5)",
    "another function": "def right(x): return x % 1\nassert abs(f(1.5) - right(1.5)) < 1e-6",
    "unittest": (
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test(self): self.assertAlmostEqual(f(1.5), 0.5)\n"
        "suite = unittest.defaultTestLoader.loadTestsFromTestCase(T)\n"
        "assert unittest.TextTestRunner().run(suite).wasSuccessful()"
    ),
}


@pytest.mark.parametrize("name", IN_OTHER_WORDS)
def test_no_object_is_the_answer_however_it_is_asked_for(name):
    tests = IN_OTHER_WORDS[name]
    for cheat in ("an object that is everything", "a small difference"):
        code = FALLBACK_CHEATS[cheat].replace("class Near(float)", "class Near")
        assert not run_python(code, tests=tests, timeout=20.0).passed, cheat
    honest = "class X(float):\n    def __contains__(self, y): return self == y\n"
    code = f"{honest}def f(x): return X(x % 1)"
    assert run_python(code, tests=tests, timeout=20.0).passed


@pytest.mark.parametrize(
    "tests",
    [
        "assert f([1, 2]) == [1, 2]\nassert f([3]) == [3]",
        "xs = [1]\nassert f(xs) is xs or f(xs) == [1]",
        "assert {1: f(2)} == {1: 2}",
        "assert f(3) in (3, 4)",
        "assert sorted([f(2), f(1)]) == [1, 2]",
        "assert isinstance(f(1), int) and f(1) == 1",
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test(self): self.assertEqual(f(2), 4)\n"
        "r = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))\n"
        "assert r.wasSuccessful()",
    ],
)
def test_an_object_that_equals_everything_is_no_plain_answer(tests):
    assert not run_python(EVERYTHING, tests=tests, timeout=20.0).passed


def test_wrong_programs_over_plain_data_stay_across_the_wall():
    for code, status in (
        ("def f(x): return x", "failed"),
        ("def f(x): return None", "error"),
        ("def f(x): raise KeyError(x)", "error"),
        ("def g(x): return x", "error"),
    ):
        result = run_python(code, tests=PLAIN, timeout=20.0)
        assert (result.status, result.wall) == (status, "sealed"), result


def test_wrong_programs_with_objects_fail_in_one_process():
    code, tests = OBJECTS["searched"]
    result = run_python(code.replace("== 0", "== 1"), tests=tests, timeout=20.0)
    assert (result.status, result.wall) == ("failed", "shared")


def test_one_process_undoes_what_the_code_did_to_the_interpreter():
    code = (
        "import builtins, json, math, unittest, sys\nbuiltins.abs = lambda x: 7\nmath.pi = 3\n"
        "unittest.TestCase.assertEqual = lambda *a: None\n"
        "json.dumps.__code__ = (lambda *a, **k: 'x').__code__\nsys.modules['string'] = None\n"
        "def f(): return 1"
    )
    tests = (
        "import json, math, string, unittest\nassert abs(-1) == 1 and math.pi > 3 and f() == 1\n"
        "assert json.dumps([1]) == '[1]' and string.digits\n"
        "try:\n    unittest.TestCase().assertEqual(1, 2)\nexcept AssertionError:\n    pass\n"
        "else:\n    raise ValueError"
    )
    result = run_python(code, tests=tests, timeout=20.0, wall="shared")
    assert result.passed and result.wall == "shared", result


def test_one_process_sees_the_names_that_tests_use_and_no_others():
    code = "def f(): return 1\ndef abs(x): return 5\nextra = 2"
    for wall in ("sealed", "shared"):
        tests = "assert f() == 1 and abs(-1) == 1 and 'extra' not in globals()"
        assert run_python(code, tests=tests, wall=wall, timeout=20.0).passed, wall


def test_tests_are_turned_at_every_kind_of_answer():
    wrong = [
        ("assert f(2) == 3", "assert f(2) == 3"),
        ("assert [1, 'a'] == f()", ""),
        ("assert f() == []", "assert f() == _another([])"),
        ("assert f() == {}", "assert f() == _another({})"),
        ("assert f() is True", "assert not f() is True"),
        ("assert abs(f(1) - 2 / 3) < 0.1", ""),
        ("assert f() == True", "assert f() == False"),
        ("self.assertTrue(f())", "self.assertFalse(f())"),
        ("with f() as x:\n    assert x", "with f() as x:\n    assert x\nraise AssertionError"),
        ("assert 2 < f(x) <= 3", "assert float('inf') < f(x) <= 3"),
        ("assert f(x) < 3", "assert f(x) < float('-inf')"),
        ("assert 3 in f(x)", "assert object() in f(x)"),
        ("assert abs(f(x) - 100) < 20", "assert abs(f(x) - 149) < 20"),
        ("assert f(x) - y < 3", "assert f(x) - y < float('-inf')"),
        ("assert f() != 3", "assert not f() != 3"),
        ("assert f(x) == y", "assert f(x) == _another(y)"),
        ("assert f(f(y)) == y", "assert f(f(y)) == _another(y)"),
        ("assert abs(y - f(x)) < 1e-6", "assert abs(y + 11 - f(x)) < 1e-06"),
        ("self.assertAlmostEqual(f(x), y)", "self.assertAlmostEqual(f(x), _another(y))"),
    ]
    for tests, expected in wrong:
        (turned,) = turned_tests(tests, 4, seed="a")
        assert turned != tests
        assert expected in ("", tests) or turned.split("else object()\n")[-1] == expected
        assert turned_tests(tests, 4, seed="a") == [turned]
    assert len(turned_tests("assert f() == 1\n" * 9, 4, seed="b")) == 4


def test_the_wall_is_one_of_three():
    with pytest.raises(SandboxError, match="wall is 'glass': expected one of 'auto', 'sealed'"):
        run_python("", tests="", wall="glass")
