"""The one process in which code and then its tests run, as the published harnesses do.

Nothing here holds a program that wants to be believed: it may reach the tests, their words and
this module. What it did to builtins and to the standard library is undone before the tests run.
"""

import ast
import builtins
import importlib
import sys
import types
from contextlib import suppress
from typing import Any

from icl_locate.sandbox.checker import used_names, verdict_of
from icl_locate.sandbox.solver import load

_OF_A_FUNCTION = ("__code__", "__defaults__", "__kwdefaults__")


def judge(code: str, tests: str, entry_point: str) -> tuple[str, str]:
    """Load the code, run its tests in a namespace of their own; returns status and message."""
    program = compile(tests, "<tests>", "exec", optimize=0)
    names = used_names(tests, entry_point)
    _import_what(tests)
    before = _Interpreter()
    try:
        defined = vars(load(code))
        before.restore()
        space = {name: defined[name] for name in names if name in defined}
        space |= {"__name__": "tests", "__builtins__": builtins}
        exec(program, space)  # noqa: S102
    except BaseException as error:
        return verdict_of(error)
    return verdict_of(None)


def _import_what(tests: str) -> None:
    """Import what tests will import, while it is as it should be."""
    for node in ast.walk(ast.parse(tests)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            with suppress(ImportError):  # it is for the tests to fail
                importlib.import_module(name)


class _Interpreter:
    """What loaded modules hold: names, their classes' attributes, their functions' code."""

    def __init__(self) -> None:
        self._modules = dict(sys.modules)
        self._kept: dict[int, tuple[Any, dict[str, Any]]] = {}
        for module in self._modules.values():
            if isinstance(module, types.ModuleType):
                self._keep(module)

    def _keep(self, thing: Any) -> None:
        if id(thing) not in self._kept:
            self._kept[id(thing)] = thing, _attributes(thing)
            for value in self._kept[id(thing)][1].values():
                if isinstance(value, (type, types.FunctionType)):
                    self._keep(value)

    def restore(self) -> None:
        """Make them what they were; what the code alone imported, it keeps for itself."""
        sys.settrace(None)
        sys.setprofile(None)
        solution = {name: sys.modules[name] for name in ("solution",) if name in sys.modules}
        for thing, names in self._kept.values():
            now = _attributes(thing)
            with suppress(AttributeError, TypeError):
                for name in now.keys() - names.keys() if isinstance(thing, type) else ():
                    delattr(thing, name)
                for name, value in names.items():
                    if name not in now or now[name] is not value:
                        setattr(thing, name, value)
        sys.modules.clear()
        sys.modules.update(self._modules | solution)


def _attributes(thing: Any) -> dict[str, Any]:
    if isinstance(thing, types.FunctionType):
        return {name: getattr(thing, name) for name in _OF_A_FUNCTION}
    return dict(vars(thing))
