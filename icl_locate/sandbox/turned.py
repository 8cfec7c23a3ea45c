"""Tests with a wrong answer in them: an honest program fails these, whatever it is.

Code that runs in one process with its tests may make them pass, or read its answers off them. It
then passes wrong ones as well, unless it knows which answers are right, and so how to compute them.
"""

import ast
import math
import random
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

_CONSTRUCTORS = frozenset(
    kind.__name__
    for kind in (bytes, complex, dict, float, frozenset, int, list, set, str, tuple, sorted)
)
_EQUAL = re.compile(r"assert(?!Not)\w*Equals?")  # of unittest
_OPPOSITE = {"assertTrue": "assertFalse", "assertFalse": "assertTrue"}
# what lies in these may never run, or its failure may be caught
_CLOSED = (ast.If, ast.While, ast.Try, ast.With, ast.Match, ast.IfExp, ast.Lambda)
_ANOTHER = """
def _another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 3 if value - value == 0 else 0
    if isinstance(value, (str, bytes)):
        return value * 2 if value else None
    if isinstance(value, (list, tuple)):
        return type(value)([*map(_another, value[:1]), *value[1:]] or [0])
    if isinstance(value, (set, frozenset)):
        return value ^ {"_"}
    return value | {"_": 0} if isinstance(value, dict) else object()
"""


def turned_tests(tests: str, n_most: int, *, seed: str) -> list[str]:
    """Some versions of tests, each with one answer made wrong.

    An answer is what a result is compared with: constants are changed in place, what is computed is
    changed when it is there, a bound becomes infinite. Where no answer is to be seen, the assertion
    itself is negated.

    Args:
        n_most: how many there are at most; which, and how they are wrong, the seed decides.

    >>> turned_tests("assert not f(2)", 1, seed="")
    ['assert f(2)']
    """
    draw = random.Random(seed)
    n_sites = len(list(_sites(ast.parse(tests))))
    found = []
    for chosen in draw.sample(range(n_sites), min(n_most, n_sites)):
        tree = ast.parse(tests)
        _turn(tree, list(_sites(tree))[chosen], draw)
        found.append(ast.unparse(ast.fix_missing_locations(tree)))
    return found or [f"{tests}\nraise AssertionError"]


def _sites(node: ast.AST) -> Iterator[ast.Assert | ast.Call]:
    """The assertions that run, and whose failure nobody catches."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Assert) or _is_assertion(child):
            yield child
        elif not isinstance(child, _CLOSED):
            yield from _sites(child)


def _is_assertion(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether it is one of unittest's."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    name = node.func.attr
    return name in _OPPOSITE or (len(node.args) >= 2 and bool(_EQUAL.fullmatch(name)))


def _turn(tree: ast.Module, site: ast.Assert | ast.Call, draw: random.Random) -> None:
    """Make an assertion's answer wrong, in place."""
    if isinstance(site, ast.Call):
        name = site.func.attr if isinstance(site.func, ast.Attribute) else ""
        if name in _OPPOSITE:
            site.func = ast.Attribute(_owner(site.func), _OPPOSITE[name], ast.Load())
        else:
            _spoil(tree, draw.choice(_answers(site.args[0], site.args[1])), draw)
        return
    parts = [site.test]
    if isinstance(site.test, ast.BoolOp) and isinstance(site.test.op, ast.And):
        parts = site.test.values
    comparisons = [p for p in parts if isinstance(p, ast.Compare) and _turns(p.ops[0])]
    if comparisons:
        _turn_comparison(tree, draw.choice(comparisons), draw)
    elif isinstance(site.test, ast.UnaryOp) and isinstance(site.test.op, ast.Not):
        site.test = site.test.operand
    else:
        site.test = ast.UnaryOp(ast.Not(), site.test)


def _owner(function: ast.expr) -> ast.expr:
    return function.value if isinstance(function, ast.Attribute) else function


def _turns(operator: ast.cmpop) -> bool:
    return isinstance(operator, (ast.Eq, ast.In, ast.Lt, ast.LtE, ast.Gt, ast.GtE))


def _turn_comparison(tree: ast.Module, node: ast.Compare, draw: random.Random) -> None:
    left, operator, right = node.left, node.ops[0], node.comparators[0]
    less = isinstance(operator, (ast.Lt, ast.LtE))
    between = len(node.ops) == 2  # as in -little < x - y < little
    distance = _difference(right if between else left)
    if isinstance(operator, ast.Eq):
        _spoil(tree, draw.choice(_answers(left, right)), draw)
    elif isinstance(operator, ast.In):
        _replace(tree, left, "object()")
    elif distance and (between or (less and distance is not left)):
        _shift(tree, _answers(distance.left, distance.right)[0], node.comparators[-1], draw)
    elif _is_given(right):
        _replace(tree, right, "float('-inf')" if less else "float('inf')")
    else:
        _replace(tree, left, "float('inf')" if less else "float('-inf')")


def _answers(left: ast.expr, right: ast.expr) -> list[ast.expr]:
    """Which of two sides that must agree can be the answer: rather what is no call's result.

    Where one is a difference, what it is taken from is the other side of another such pair.
    """
    pairs = [(left, right)]
    pairs += [(d.left, d.right) for side in (left, right) if (d := _difference(side))]
    found: list[ast.expr] = []
    for one, other in pairs:
        sides = [other, one]
        best = [s for s in sides if _is_plain(s)] or [s for s in sides if _is_given(s)] or sides
        found.append(best[0])
    return found


def _difference(node: ast.expr) -> ast.BinOp | None:
    """``x - y``, its absolute value or its square."""
    if isinstance(node, ast.Call) and node.args and _is_distance(node.func):
        node = node.args[0]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        node = node.left
    return node if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) else None


def _is_given(node: ast.expr) -> bool:
    return not any(isinstance(part, ast.Call) for part in ast.walk(node))


def _is_distance(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("abs", "fabs")


def _is_plain(node: ast.AST) -> bool:
    """Whether an expression is made of constants alone."""
    if isinstance(node, ast.Call):
        return (
            isinstance(node.func, ast.Name)
            and node.func.id in _CONSTRUCTORS
            and not node.keywords
            and bool(node.args)
            and all(map(_is_plain, node.args))
        )
    kinds = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp)
    parts = (ast.expr_context, ast.operator, ast.unaryop)
    return isinstance(node, (*kinds, *parts)) and all(map(_is_plain, ast.iter_child_nodes(node)))


def _spoil(tree: ast.Module, answer: ast.expr, draw: random.Random) -> None:
    """Change one constant of an answer; change what it comes to if it is not made of constants."""
    constants = [node for node in ast.walk(answer) if isinstance(node, ast.Constant)]
    if not _is_plain(answer) or not constants:
        _replace(tree, answer, "_another()", around=True)
        tree.body[_start(tree) : _start(tree)] = ast.parse(_ANOTHER).body
        return
    chosen = draw.choice(constants)
    chosen.value = _another(chosen.value, draw)


def _shift(tree: ast.Module, answer: ast.expr, bound: ast.expr, draw: random.Random) -> None:
    """Move an answer by more than the distance from it that is allowed."""
    allowed = bound.value if isinstance(bound, ast.Constant) else 0
    far = draw.randint(1, 9) + (
        2 * math.ceil(min(allowed, 1e9)) if isinstance(allowed, (int, float)) else 0
    )
    if isinstance(answer, ast.Constant) and isinstance(answer.value, (int, float)):
        answer.value += far
    else:
        _replace(tree, answer, f"{ast.unparse(answer)} + {far}")


def _start(tree: ast.Module) -> int:
    """The first statement that is no import from the future, which must come first."""
    first = [isinstance(s, ast.ImportFrom) and s.module == "__future__" for s in tree.body]
    return 1 + max((i for i, is_future in enumerate(first) if is_future), default=-1)


def _replace(tree: ast.Module, old: ast.expr, text: str, *, around: bool = False) -> None:
    """Put an expression in another's place, or around it as a call."""
    new = ast.parse(text, mode="eval").body
    if around and isinstance(new, ast.Call):
        new.args.append(old)
    _Replace(old, new).visit(tree)


class _Replace(ast.NodeTransformer):
    """Puts one node in another's place."""

    def __init__(self, old: ast.expr, new: ast.expr) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """The new node for the old one, and every other as it is."""
        return self._new if node is self._old else self.generic_visit(node)


def _another(value: Any, draw: random.Random) -> Any:
    """A value of the same kind that is not equal."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, complex)):
        return value + draw.randint(1, 9)
    if isinstance(value, float):
        return value + draw.randint(1, 9) if abs(value) < 2**50 else 0.0
    if isinstance(value, str):
        return value + draw.choice(value or "a")
    if isinstance(value, bytes):
        return value + (value[:1] or b"a")
    return 0
