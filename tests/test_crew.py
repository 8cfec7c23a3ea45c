"""Workers of an executor that are none: who is given what, whatever happens to them."""

from collections import deque
from types import SimpleNamespace

import pytest

from icl_locate.errors import ExecutionError
from icl_locate.studies.ray_executor import _Crew


class FailedError(Exception):
    """What Ray raises of a worker's own code."""


class Worker:
    """An actor that answers at once, when it is asked for."""

    def __init__(self, broken):
        self.broken, self.asked = broken, []
        self.ready = SimpleNamespace(remote=lambda: (self, None))
        self.do = SimpleNamespace(remote=self._do)

    def _do(self, unit):
        self.asked.append(unit.name)
        return self, unit


class Unit:
    """Work that is equal to none, and cannot even be compared."""

    def __init__(self, name, bad=False):
        self.name, self.bad = name, bad

    def __eq__(self, other):
        raise TypeError("no truth value")

    __hash__ = object.__hash__


def get(reference):
    worker, unit = reference
    if unit is not None and (worker.broken or unit.bad):
        raise FailedError(f"{unit.name} failed")
    return None if unit is None else unit.name


def crew(workers, units, done, order):
    """A crew whose workers answer in an order: the first that is among the waited for."""

    def wait(waited, num_returns, timeout):
        return sorted(waited, key=lambda one: order.index(one[0].broken))[:1], []

    errors = SimpleNamespace(RayTaskError=FailedError, RayError=OSError)
    ray = SimpleNamespace(exceptions=errors, get=get, wait=wait, kill=lambda worker: None)
    there = iter(workers)
    return _Crew(ray, lambda: next(there), deque(units), 2, lambda unit, found: done.append(found))


def test_a_worker_that_broke_does_not_fail_the_units_of_others():
    """One whose GPU broke fails at once, and is free again before others are."""
    workers, done = [Worker(True), Worker(False)], []
    crew(workers, [Unit(n) for n in "abcdef"], done, [True, False]).work(2)
    assert sorted(done) == list("abcdef")
    assert len(set(workers[0].asked)) == len(workers[0].asked), "no unit comes to it again"


def test_a_unit_that_fails_on_the_only_worker_is_tried_there_again():
    workers, done = [Worker(False)], []
    with pytest.raises(
        ExecutionError, match="^1 of 3 units failed wherever .*: FailedError: b failed"
    ):
        crew(workers, [Unit("a"), Unit("b", bad=True), Unit("c")], done, [False]).work(1)
    assert sorted(done) == ["a", "c"] and workers[0].asked.count("b") == 3
