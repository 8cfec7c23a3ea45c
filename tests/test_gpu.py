"""What only a GPU shows: memory of its own that runs out, and runs on it that are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import icl_locate as icl
from icl_locate.embedded.tokenizer import build_tokenizer, vocabulary

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
N_KILLS = int(os.environ.get("ICL_LOCATE_KILLS", "6"))
SCRIPT = Path(__file__).with_name("killed_sweep.py")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random Llama whose runs take far more memory than a GPU's smallest allocations."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
    config = LlamaConfig(**sizes, vocab_size=len(vocabulary()), num_attention_heads=8)
    found = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(found)
    build_tokenizer().save_pretrained(found)
    return found


@pytest.mark.parametrize("engine", ["shared", "hooks"])
def test_a_gpu_that_is_full_goes_on_with_half(engine, directory, caplog):
    """With a third of the memory that the sweep took, and a budget that promises far more."""
    model = icl.load_model(directory, device="cuda")
    asked = {"n_shots": 5, "n_queries": 64, "seeds": 0, "metric": "log_prob", "engine": engine}
    asked |= {"conditions": ["examples", "everything"], "token_budget": 10**9, "layers": [0, 6]}
    before = torch.cuda.memory_allocated()
    wanted = icl.sweep(model, "pseudo-translation", **asked)
    took = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    caplog.clear()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + took / 3) / total)
    try:
        found = icl.sweep(model, "pseudo-translation", **asked)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory: 32 prompts at once from here on" in caplog.text
    torch.testing.assert_close(found.item_scores, wanted.item_scores, rtol=1e-4, atol=1e-4)


def start(device, store, result):
    """The sweep in another process, whose model is there."""
    command = [sys.executable, str(SCRIPT), device, str(store), str(result)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_run_on_a_gpu_that_is_killed_again_and_again_ends_bit_by_bit_the_same(tmp_path):
    survive(tmp_path, "cuda", N_KILLS)


def survive(folder, device, n_kills):
    """Kill it at random moments until it is done, and compare with one that nobody disturbed."""
    began = time.monotonic()
    assert start(device, folder / "calm", folder / "wanted").wait() == 0
    takes, numbers, n_killed = time.monotonic() - began, random.Random(0), 0
    while n_killed < n_kills:
        child = start(device, folder / "store", folder / "found")
        time.sleep(numbers.uniform(0, takes / n_kills))
        child.send_signal(signal.SIGKILL)
        if child.wait() == 0:
            break
        n_killed += 1
    assert n_killed > 1
    assert start(device, folder / "store", folder / "found").wait() == 0
    found, wanted = (icl.SweepResult.load(folder / name) for name in ("found", "wanted"))
    for name in ("statistics", "scores", "item_scores"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    assert found.texts == wanted.texts
