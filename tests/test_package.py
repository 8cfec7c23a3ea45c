"""The package as a whole: names, import time, examples, what it must not contain."""

import ast
import inspect
import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from timing import children_seconds

import icl_locate as icl
from icl_locate import gates, induction, lora, savings
from icl_locate.context_heads import result as results

ROOT = Path(__file__).parents[1]

CONTRACT = {
    "load_model",
    "load_task",
    "PromptTemplate",
    "build_prompts",
    "Example",
    "Task",
    "Segment",
    "Condition",
    "ContextMask",
    "from_layer",
    "only_layer",
    "window",
    "until_layer",
    "attention_hooks",
    "mask_attention",
    "sweep",
    "SweepResult",
    "locate",
    "plots",
    "PAPER_CONDITIONS",
    "score_targets",
    "generate",
}


def test_the_contracts_names_are_public():
    assert set(icl.__all__) >= CONTRACT
    for name in icl.__all__:
        assert getattr(icl, name) is not None
        assert getattr(icl, name).__doc__, name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = icl.no_such_name


def test_import_is_fast():
    code = "import time; s = time.process_time(); import icl_locate; print(time.process_time() - s)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 1.0


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(example):
    before, alone = children_seconds(), os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, check=False, env=alone
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "examples: " in done.stdout, "each example ends with a location"
    assert children_seconds() - before < 240


def test_an_examples_model_is_the_same_each_time(tmp_path):
    write_model = runpy.run_path(str(ROOT / "examples" / "own_task.py"))["write_model"]
    before = torch.random.get_rng_state()
    one, other = (write_model(tmp_path / name) / "model.safetensors" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    assert torch.equal(torch.random.get_rng_state(), before), "and nobody else's draws moved"


def test_no_module_outgrows_its_noun():
    for path in (ROOT / "icl_locate").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path
        assert "from __future__ import annotations" not in path.read_text(encoding="utf-8"), path


DOCUMENTED = {"masking/sweeps.py: sweep", "prompts/batch.py: from_tokens"}
"""Functions of many arguments, whose documentation takes the room. None may join them."""


def long_functions(most):
    """Functions with more lines than that, documentation included, as "module: name"."""
    package = ROOT / "icl_locate"
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            if is_function and node.end_lineno - node.lineno + 1 > most:
                yield f"{path.relative_to(package).as_posix()}: {node.name}"


def test_a_function_fits_a_screen():
    assert set(long_functions(60)) <= DOCUMENTED
    assert len(list(long_functions(20))) > 100, "the count itself counts"


def test_only_what_every_storey_reads_stands_at_the_root():
    found = {path.stem for path in (ROOT / "icl_locate").glob("*.py")} - {"__init__"}
    assert len(found) <= 3, found


DEFAULTS = {
    "seed": 0,
    "n_shots": 5,
    "max_new_tokens": 50,
    "confidence": 0.95,
    "n_resamples": 1000,
}


def public_functions():
    """What is public, and the public methods of its classes."""
    for module in (icl, gates, induction, lora, results, savings):
        for name in getattr(module, "__all__", vars(module)):
            found = getattr(module, name)
            if not str(getattr(found, "__module__", "")).startswith("icl_locate"):
                continue
            if inspect.isclass(found) and not issubclass(found, BaseException):
                yield from (
                    (f"{name}.{method}", function)
                    for method, function in {**vars(found), "__init__": found}.items()
                    if inspect.isfunction(function) or function is found
                )
            elif inspect.isfunction(found):
                yield name, found


def test_arguments_of_one_name_have_one_default():
    """What the documents say once holds everywhere."""
    seen = Counter()
    for name, function in public_functions():
        for argument, parameter in inspect.signature(function).parameters.items():
            if argument in DEFAULTS and parameter.default not in (parameter.empty, None):
                assert parameter.default == DEFAULTS[argument], f"{name}({argument}=)"
                seen[argument] += 1
    assert seen.keys() == DEFAULTS.keys() and min(seen.values()) > 3, seen
    for function in (icl.sweep, induction.ablation_study):
        assert inspect.signature(function).parameters["seeds"].default == (0, 1, 2)
    assert inspect.signature(icl.locate).parameters["threshold"].default == 0.9
