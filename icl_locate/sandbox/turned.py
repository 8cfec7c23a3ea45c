"""Tests with a wrong answer in them: an honest program fails these, whatever it is.

Code that runs in one process with its tests may make them pass, or read its answers off them. It
then passes wrong ones as well, unless it knows which answers are right, and so how to compute them.
"""

import ast
import random
from collections.abc import Iterator
from typing import Any

_CONSTRUCTORS = frozenset(
    kind.__name__
    for kind in (bytes, complex, dict, float, frozenset, int, list, set, str, tuple, sorted)
)
_EQUAL = frozenset(["assertEqual", "assertEquals", "assertCountEqual", "assertListEqual"])
_OPPOSITE = {"assertTrue": "assertFalse", "assertFalse": "assertTrue"}
# what lies in these may never run, or its failure may be caught
_CLOSED = (ast.If, ast.While, ast.Try, ast.With, ast.Match, ast.IfExp, ast.Lambda)


def turned_tests(tests: str, n_most: int, *, seed: str) -> list[str]:
    """Some versions of tests, each with one answer made wrong.

    An answer is what an assertion expects: a number or text in what a result is compared with, and
    where that is not to be seen, that the assertion holds.

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
        _turn(list(_sites(tree))[chosen], draw)
        found.append(ast.unparse(ast.fix_missing_locations(tree)))
    return found or [f"{tests}\nraise AssertionError"]


def _sites(node: ast.AST) -> Iterator[ast.Assert | ast.Call]:
    """The assertions that run, and whose failure nobody catches."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Assert) or (
            isinstance(child, ast.Call)
            and isinstance(child.func, ast.Attribute)
            and child.func.attr in (_EQUAL | _OPPOSITE.keys())
        ):
            yield child
        elif not isinstance(child, _CLOSED):
            yield from _sites(child)


def _turn(site: ast.Assert | ast.Call, draw: random.Random) -> None:
    """Make an assertion's answer wrong, in place."""
    if isinstance(site, ast.Call):
        answers = [argument for argument in site.args[1::-1] if _is_plain(argument)]
        name = site.func.attr if isinstance(site.func, ast.Attribute) else ""
        if name in _OPPOSITE:
            site.func = ast.Attribute(site.func.value, _OPPOSITE[name], ast.Load())  # type: ignore[attr-defined]
        elif answers:
            _spoil(answers[0], draw)
        else:
            site.args = [*site.args[:1], ast.List([site.args[1]], ast.Load())]
        return
    parts = [site.test]
    if isinstance(site.test, ast.BoolOp) and isinstance(site.test.op, ast.And):
        parts = site.test.values
    answers = [answer for part in parts for answer in _answers(part)]
    if answers:
        _spoil(draw.choice(answers), draw)
    elif isinstance(site.test, ast.UnaryOp) and isinstance(site.test.op, ast.Not):
        site.test = site.test.operand
    else:
        site.test = ast.UnaryOp(ast.Not(), site.test)


def _answers(part: ast.expr) -> list[ast.expr]:
    """The plain side of ``result == answer``, or of ``abs(result - answer) < little``."""
    if not (isinstance(part, ast.Compare) and len(part.ops) == 1):
        return []
    sides = [part.comparators[0], part.left]
    if isinstance(part.ops[0], (ast.Lt, ast.LtE)) and isinstance(part.left, ast.Call):
        inside = part.left.args[0] if part.left.args else part.left
        if not (_is_distance(part.left.func) and isinstance(inside, ast.BinOp)):
            return []
        sides = [inside.right, inside.left] if isinstance(inside.op, ast.Sub) else []
    elif not isinstance(part.ops[0], ast.Eq):
        return []
    return [side for side in sides if _is_plain(side)][:1]


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


def _spoil(answer: ast.AST, draw: random.Random) -> None:
    """Change one constant of an answer, or put one into it if it has none."""
    constants = [node for node in ast.walk(answer) if isinstance(node, ast.Constant)]
    if constants:
        chosen = draw.choice(constants)
        chosen.value = _another(chosen.value, draw)
        return
    for node in ast.walk(answer):
        if isinstance(node, (ast.List, ast.Tuple)):
            node.elts.append(ast.Constant(0))
            return
        if isinstance(node, ast.Dict):
            node.keys.append(ast.Constant(0))
            node.values.append(ast.Constant(0))
            return


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
