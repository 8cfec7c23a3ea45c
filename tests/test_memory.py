"""Memory that runs out: what says so, what is given back, and what is not taken for a verdict."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate.engine import budget, grid
from icl_locate.engine.choice import choose_engine
from icl_locate.hooks.points import check_point
from icl_locate.models import memory

SCRIPT = Path(__file__).with_name("full_memory.py")
TASK = icl.load_task("pseudo-translation")
OPTIONS = {"n_shots": 1, "n_queries": 8, "seeds": 0, "metric": "log_prob", "conditions": "examples"}
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasSgemm(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
]
OTHER = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ValueError("out of memory"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_these_say_that_memory_ran_out(error):
    assert memory.is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_these_say_something_else(error):
    assert not memory.is_out_of_memory(error)


@pytest.fixture
def gpu(monkeypatch):
    """The numbers of a GPU: 100 bytes free, 70 held by torch, 50 of them in use."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50)
    return torch.device("cuda", 0)


def test_what_torch_holds_without_using_it_is_free(gpu):
    """Or each run would leave the next a smaller budget, and at last none."""
    assert memory.free_bytes(gpu) == 100 + 20


def test_a_full_gpu_is_tried_all_the_same(gpu, monkeypatch):
    model = tiny.boot_fresh("llama")
    prompts = icl.build_prompts(model, TASK.test[:2], examples=TASK.train, n_shots=1)
    assert budget.default_budget(model, prompts, 123, 99) > 99
    weight = SimpleNamespace(device=gpu, dtype=torch.float32, is_floating_point=lambda: True)
    monkeypatch.setattr(model.original_model, "parameters", lambda: iter([weight]))
    assert budget.default_budget(model, prompts, 123, 99) == 99
    weight.device = torch.device("cpu")
    monkeypatch.setattr(budget, "free_bytes", lambda device: 120)
    assert budget.default_budget(model, prompts, 123, 99) == 1, "there a try may kill the process"


def mlps(model):
    """The MLPs of the first layer and of the last one."""
    layers = model.original_model.model.layers
    return layers[0].mlp, layers[-1].mlp


@pytest.mark.parametrize("engine", ["shared", "hooks"])
def test_what_a_try_held_is_gone_before_the_next(engine, monkeypatch, caplog):
    """The last layer dies of more than one prompt at once; nothing waits for the collector."""
    model, made, left, sizes = tiny.boot_fresh("llama"), [], [], []
    wanted = icl.sweep(model, TASK, engine=engine, **OPTIONS)
    real = {"shared": "read_many", "hooks": "answer_cell"}[engine]
    act, given_back = getattr(grid, real), []
    monkeypatch.setattr(budget, "give_back", lambda: given_back.append(alive()))

    def alive():
        return sum(one() is not None for one in made)

    def again(*given):
        left.append(alive())
        made.clear()
        sizes.append(len(given[0].prompts) if engine == "shared" else given[-1])
        return act(*given)

    def note(module, given, found):
        made.append(weakref.ref(found))

    def die(module, given):
        made.append(weakref.ref(given[0]))  # which frames hold that the error names
        if sizes and sizes[-1] > 1:
            raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(grid, real, again)
    first, last = mlps(model)
    handles = first.register_forward_hook(note), last.register_forward_pre_hook(die)
    gc.disable()
    try:
        found = icl.sweep(model, TASK, engine=engine, **OPTIONS)
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()
    assert sizes[:4] == [8, 4, 2, 1] and set(sizes[4:]) == {1}, "what was too much stays so"
    assert len(given_back) == 3 and not any(given_back) and not any(left)
    assert "out of memory: 4 prompts at once from here on" in caplog.text
    torch.testing.assert_close(found.scores, wanted.scores)


@pytest.mark.skipif(sys.platform != "linux", reason="there a process's memory has no bound")
@pytest.mark.parametrize("engine", ["shared", "hooks"])
def test_memory_that_really_runs_out(engine):
    command = [sys.executable, str(SCRIPT), engine]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["told"] and found["apart"] < 1e-4, found


def n_calls(ask):
    """How often the last layer's MLP runs while a model is asked something for the first time."""
    model, calls = tiny.boot_fresh("llama"), []
    handle = mlps(model)[1].register_forward_pre_hook(lambda *_: calls.append(1))
    ask(model)
    handle.remove()
    return len(calls)


ASKED = {
    "engine": lambda model: choose_engine(model, "auto"),
    "point": lambda model: check_point(model, "z"),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_trial_that_dies_of_memory_is_no_verdict(name):
    """Wherever it dies: it is told, and the next time the model is tried anew."""
    ask = ASKED[name]
    wanted = ask(tiny.boot("llama"))
    total = n_calls(ask)
    for number in sorted({1, 2, 3, 4, 5, 6, total // 2, total} & {*range(1, total + 1)}):
        model, calls = tiny.boot_fresh("llama"), []

        def die(module, given, calls=calls, number=number):
            calls.append(1)
            if len(calls) == number:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")

        handle = mlps(model)[1].register_forward_pre_hook(die)
        with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
            ask(model)
        handle.remove()
        assert ask(model) == wanted
