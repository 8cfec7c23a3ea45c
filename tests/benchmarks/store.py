"""Benchmark of the store and of Ray: ``python tests/benchmarks/store.py``.

What keeping every answer costs a sweep of a 12-layer model, beside the same sweep without; how long
a store of 10,000 units takes to list; how much faster two Ray workers are than one. Writes numbers
and a table into ``docs/``.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import tyro
from random_llama import Shape, build, random_prompts
from turns import DOCS, in_turn, machine

import icl_locate as icl
from icl_locate.embedded.tokenizer import build_tokenizer
from icl_locate.records.files import check_output, replace_file
from icl_locate.records.runs import RunRecord
from icl_locate.records.store import Entry, Store
from icl_locate.records.units import write_unit
from icl_locate.studies.naming import name_of

Part = Literal["overhead", "listing", "ray"]
PARTS: tuple[Part, ...] = ("overhead", "listing", "ray")
FILES = "store_benchmark.json", "store_table.md"


@dataclass(frozen=True)
class Config:
    """Measure the store, and Ray."""

    parts: tuple[Part, ...] = PARTS
    """What to measure."""
    shape: Shape = field(default_factory=Shape)
    """Of the random model."""
    device: str = "cpu"
    """Where it runs, while the overhead is measured."""
    n_prompts: int = 8
    """Prompts of a sweep."""
    n_tokens: int = 320
    """Tokens a prompt."""
    n_units: int = 10_000
    """Units that are listed."""
    n_runs: int = 3
    """Alternating runs, of which medians are taken."""
    output: Path = DOCS
    """Directory for numbers and table."""


def main(config: Config) -> None:
    """Measure, and write what was found, leaving the other parts' numbers as they are."""
    check_output(config.output, FILES)
    numbers = config.output / FILES[0]
    found: dict[str, Any] = json.loads(numbers.read_text()) if numbers.exists() else {}
    measures = {"overhead": overhead, "listing": listing, "ray": ray_workers}
    with TemporaryDirectory() as folder:
        for part in config.parts:
            found[part] = {
                "machine": machine(where(config, part)),
                **measures[part](config, Path(folder)),
            }
            print(part, found[part])
    replace_file(numbers, [json.dumps(found, indent=1).encode()])
    replace_file(config.output / FILES[1], ["\n".join(table(found)).encode()])


def where(config: Config, part: Part) -> str:
    """The device that a part runs on."""
    return config.device if part == "overhead" else "cpu"


def overhead(config: Config, folder: Path) -> dict[str, Any]:
    """A sweep with a store of its own, and without; processor and wall seconds."""
    bridge, _ = build(config.shape, config.device)
    task = task_of(config)
    places = (folder / f"store_{i}" for i in count())

    def sweep(store: Path | None) -> Any:
        return icl.sweep(bridge, task, metric="log_prob", store=store, batch_size=2)

    ways = {"without": lambda: sweep(None), "kept": lambda: sweep(next(places))}
    found: dict[str, Any] = {}
    for clock in ("wall", "processor"):
        seconds, outcomes = in_turn(ways, config.n_runs, ours="kept", clock=clock)
        found[clock] = seconds | {"overhead": seconds["kept"] / seconds["without"] - 1}
    same = outcomes["kept"].statistics.equal(outcomes["without"].statistics)
    units = len([*next(folder.glob("store_*")).glob("units/*/*")])
    return found | {"bit_equal": same, "units": units, "cells": outcomes["kept"].scores.numel()}


def task_of(config: Config) -> icl.Task:
    """Random prompts as a task."""
    n_examples = int(0.8 * config.n_tokens)
    prompts = random_prompts(config.n_prompts, config.n_tokens, n_examples)
    return icl.Task.from_prompts(prompts)


def listing(config: Config, folder: Path) -> dict[str, Any]:
    """A store of many units, each of some cells and items, and what listing it takes."""
    store, record = Store.at(folder / "many"), RunRecord.new("sweep", {})
    cells, context = [name_of(["cell", i]) for i in range(50)], name_of("context")
    numbers = {"numbers": torch.zeros(50, 32, dtype=torch.float64)}
    for i in range(config.n_units):
        items = [name_of(["item", i, j]) for j in range(32)]
        entry = Entry.of(store, context, cells, items)
        write_unit(entry, numbers, {})
        record.take([entry.label])
    record.end(None)
    record.write(store)
    seconds = []
    for _ in range(config.n_runs):
        began = time.perf_counter()
        command = [sys.executable, "-m", "icl_locate", "runs", "list", str(store.directory)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    n_found = sum(1 for _ in store.entries(context))
    headers = time.perf_counter() - began
    return {"units": n_found, "seconds": min(seconds), "headers": headers, "said": said[-60:]}


def ray_workers(config: Config, folder: Path) -> dict[str, Any]:
    """The same sweep by one worker and by two, each loaded anew; and what both give."""
    import ray

    ray.init(num_cpus=2, log_to_driver=False, logging_level="error")
    bridge, plain = build(config.shape)
    plain.save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    del bridge
    model = icl.load_model(folder / "model")
    task, found = task_of(config), {}
    torch.set_num_threads(1)
    here = icl.sweep(model, task, metric="log_prob", batch_size=1)

    def sweep(n: int) -> Any:
        workers = icl.RayExecutor(n)
        return icl.sweep(model, task, metric="log_prob", batch_size=1, executor=workers)

    ways = {"one": lambda: sweep(1), "two": lambda: sweep(2)}
    found, outcomes = in_turn(ways, config.n_runs, ours="one")
    difference = max((here.scores - one.scores).abs().max().item() for one in outcomes.values())
    ray.shutdown()
    ratio = found["one"] / found["two"]
    return {"seconds": found, "ratio": ratio, "difference": difference}


def table(found: dict[str, Any]) -> list[str]:
    """What the docs show."""
    lines = ["| what | measured |", "|---|---|"]
    if "overhead" in found:
        one = found["overhead"]
        share = f"{100 * one['processor']['overhead']:.1f} % of the processor's time"
        lines.append(f"| keeping {one['cells']} cells in {one['units']} units | {share} |")
    if "listing" in found:
        one = found["listing"]
        lines.append(f"| listing {one['units']} units | {one['seconds']:.2f} s |")
    if "ray" in found:
        lines.append(f"| two Ray workers against one | {found['ray']['ratio']:.2f} times as fast |")
    return lines


if __name__ == "__main__":
    main(tyro.cli(Config))
