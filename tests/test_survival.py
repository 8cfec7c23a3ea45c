"""Runs that are killed at any moment, again and again, and end as if nothing had happened."""

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import vectors
from icl_locate.engine import grid
from icl_locate.errors import ResultError
from icl_locate.records.runs import read_run, run_files
from icl_locate.records.store import Store
from icl_locate.records.units import read_unit

N_KILLS = int(os.environ.get("ICL_LOCATE_KILLS", "4"))
"""Of each study; the survival benchmark asks for more."""
TASK = replace(icl.load_task("pseudo-translation"), metric="token_accuracy")
LABELS = icl.load_task("f_a_f_p/4")


def sweep(store, output, n_queries=8, conditions=None):
    options = {
        "n_shots": 1,
        "n_queries": n_queries,
        "conditions": conditions,
        "seeds": [0, 1],
        "max_new_tokens": 3,
    }
    return icl.sweep(tiny.boot("llama"), TASK, store=store, batch_size=1, **options)


def task_vectors(store, output):
    options = {"n_shots": 2, "n_queries": 8, "seeds": [0, 1], "metric": "first_token_prob"}
    return vectors.task_vectors(tiny.boot("llama"), LABELS, store=store, batch_size=1, **options)


def lora(store, output):
    config = replace(icl.lora.PRESETS["sia2024"], n_train=8, n_dev=4, max_epochs=2, patience=9)
    options = {"layers": [0, 1], "seeds": 0, "n_queries": 4, "max_new_tokens": 3}
    return icl.lora.lora_by_layer(None, TASK, output, config, store=store, **options)


STUDIES: dict[str, Callable] = {
    "sweep": partial(sweep, n_queries=3),
    "vectors": task_vectors,
    "lora": lora,
}


def start(act, *given):
    """Another process that acts, and ends at once; its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        act(*given)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def whole_units(store):
    """The names of all units, every one of which is whole."""
    there = Store(store)
    files = [path for context in there.contexts() for path in there.files(context)]
    for path in files:
        read_unit(path)
    return {path.name for path in files}


def assert_same(found, wanted):
    for name in wanted._tensors:
        one, other = getattr(found, name), getattr(wanted, name)
        assert one is other is None or torch.equal(one, other), name
    assert getattr(found, "texts", None) == getattr(wanted, "texts", None)


@pytest.fixture(autouse=True)
def _one_thread():
    """A forked process has none of its parent's threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, name):
    study, store, output = STUDIES[name], tmp_path / "store", tmp_path / "output"
    wanted = study(None, tmp_path / "undisturbed")
    began = time.monotonic()
    assert end_of(start(study, tmp_path / "timed", tmp_path / "timed_output")) == 0
    takes = time.monotonic() - began
    units, n_killed, numbers = set[str](), 0, random.Random(name)
    while n_killed < N_KILLS:
        child = start(study, store, output)
        time.sleep(numbers.uniform(0, 1.2 * takes / max(1, N_KILLS / 4)))
        os.kill(child, signal.SIGKILL)
        n_killed += end_of(child) == -signal.SIGKILL
        now = whole_units(store) if store.exists() else set()
        assert units <= now, "what was kept is lost"
        units = now
        if end_of_work(store):
            store, output = tmp_path / f"store {n_killed}", tmp_path / f"output {n_killed}"
            units = set()
    assert_same(study(store, output), wanted)
    records = [read_run(path) for path in run_files(Store(store))]
    assert records[-1].state == "done" and {run.state for run in records[:-1]} <= {"running"}


def end_of_work(store):
    """Whether some run came to its end, so that nothing is left to be killed."""
    if not store.exists():
        return False
    return any(read_run(path).state == "done" for path in run_files(Store(store)))


def test_two_processes_share_the_work_of_one_store(tmp_path):
    wanted = sweep(None, None)
    children = [start(sweep, tmp_path, None) for _ in range(3)]
    assert [end_of(child) for child in children] == [0, 0, 0]
    assert_same(sweep(tmp_path, None), wanted)
    assert len(whole_units(tmp_path)) == 2 * 2 * 8, "two groups of prompts, two seeds"


def test_a_disk_that_is_full_stops_a_run_and_loses_nothing(tmp_path):
    """On a file system of its own: 128 KiB, of which the store's files soon need more."""
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=128k tmpfs {place} 2>/dev/null"):  # noqa: S605
        pytest.skip("this process may not mount a small file system")
    try:
        with pytest.raises(ResultError, match="No space left on device"):
            sweep(place / "store", None)
        before = whole_units(place / "store")
        assert 0 < len(before) < 32
        with pytest.raises(ResultError, match="No space left on device"):
            sweep(place / "store", None)
        assert before <= whole_units(place / "store")
        assert not list(place.rglob("*.part")), "nothing half-written is left"
        os.system(f"mount -o remount,size=16m {place}")  # noqa: S605
        assert_same(sweep(place / "store", None), sweep(None, None))
        assert before < whole_units(place / "store")
    finally:
        os.system(f"umount {place}")  # noqa: S605


@pytest.mark.parametrize("engine", ["shared", "hooks"])
def test_a_model_that_dies_of_memory_goes_on_with_half(monkeypatch, engine, caplog):
    """Whatever is too much: prompts first, then runs; nothing is counted twice or told twice."""
    name, told = ("read_many", "answer_cell")[engine == "hooks"], []
    real = getattr(grid, name)

    def read_many(run, readout, runs):
        if len(run.prompts) > 1 or len(runs) > 3:
            raise torch.OutOfMemoryError("full")
        return real(run, readout, runs)

    def answer_cell(model, prompts, run, readout, max_new_tokens, batch_size):
        if batch_size > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(model, prompts, run, readout, max_new_tokens, batch_size)

    options = {"n_shots": 1, "n_queries": 3, "seeds": 0, "metric": "log_prob", "engine": engine}
    wanted = icl.sweep(tiny.boot("llama"), TASK, **options)
    monkeypatch.setattr(grid, name, {"read_many": read_many}.get(name, answer_cell))
    monkeypatch.setattr(
        "icl_locate.studies.display.Display", lambda bar, lines: SimpleNamespace(bar=Told(told))
    )
    found = icl.sweep(tiny.boot("llama"), TASK, **options)
    torch.testing.assert_close(found.scores, wanted.scores)
    assert "out of memory" in caplog.text
    assert sum(told) == found.scores.numel()


class Told:
    """A bar that remembers what it is told."""

    def __init__(self, told):
        self.update = told.append
