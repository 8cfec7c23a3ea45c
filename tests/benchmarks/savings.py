"""Benchmark of context-dropping generation: ``python tests/benchmarks/savings.py``.

A random Llama of about GPT-2's size, five shots of 50 tokens and a query of 50, the context dropped
from each of some layers on, in turn with ordinary generation in one run. Writes medians into
``docs/savings_benchmark.json`` and a table beside it; operations and the published formula stand
next to what was measured.
"""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from random_llama import Shape, build, random_prompts
from turns import DOCS, machine

from icl_locate.records.files import check_output, replace_file
from icl_locate.savings import ModelCosts, estimate_savings
from icl_locate.savings.measure import Runs


@dataclass(frozen=True)
class Config:
    """Time ordinary generation, and generation that drops the context."""

    shape: Shape = field(default_factory=Shape)
    """Of the random model."""
    layers: tuple[int, ...] = (3, 6, 9)
    """Layers from which the context is dropped."""
    n_shots: int = 5
    """Examples in a prompt."""
    shot_tokens: int = 50
    """Tokens of an example, and of the query."""
    n_prompts: int = 4
    """Prompts, in one batch."""
    n_new: int = 32
    """New tokens of each."""
    repeats: int = 5
    """Alternating runs, of which medians are taken."""
    device: str = "cpu"
    """cpu, cuda, ..."""
    output: Path = DOCS
    """Directory for savings_benchmark.json and savings_table.md."""


def measure(config: Config) -> list[dict[str, Any]]:
    """One row a layer; the last is ordinary generation."""
    model, _ = build(config.shape, config.device)
    costs = ModelCosts.of(model)
    n_examples = config.n_shots * config.shot_tokens
    width = 1 + n_examples + config.shot_tokens
    prompts = random_prompts(config.n_prompts, width, n_examples, instruction=False)
    starts = [*config.layers, config.shape.n_layers]
    runs = {start: Runs(model, prompts, start, config.n_new, config.n_prompts) for start in starts}
    for repeat in range(config.repeats + 1):  # the first warms up
        for start in starts:
            if repeat == 1:
                runs[start].prefill.clear()
                runs[start].decode.clear()
            runs[start].measure_time()
    rows = []
    whole = runs[starts[-1]]
    for start in starts:
        run = runs[start]
        found = estimate_savings(
            costs, start, n_shots=config.n_shots, shot_tokens=config.shot_tokens,
            query_tokens=config.shot_tokens, n_new_tokens=config.n_new, n_prompts=config.n_prompts,
        )  # fmt: skip
        prefill, decode = statistics.median(run.prefill), statistics.median(run.decode)
        rows.append(
            {
                "from_layer": start,
                "formula": found.paper,
                "prefill_operations_saved": found.prefill_share,
                "prefill_seconds": prefill,
                "prefill_saved": 1 - prefill / statistics.median(whole.prefill),
                "decode_seconds": decode,
                "decode_saved": 1 - decode / statistics.median(whole.decode),
                "cache_saved": 1 - run.cache_bytes / whole.cache_bytes,
                "cache_as_counted": run.cache_bytes == found.cache_bytes[1],
                "peak_saved": 1 - run.peak() / whole.peak(),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The table of the docs."""
    lines = [
        "| dropped from layer | formula | operations of the prefill | time of the prefill "
        "| time of decoding | cache | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    names = ("formula", "prefill_operations_saved", "prefill_saved", "decode_saved", "cache_saved")
    for row in rows[:-1]:
        shares = " | ".join(f"-{row[name]:.0%}" for name in (*names, "peak_saved"))
        lines.append(f"| {row['from_layer']} | {shares} |")
    return "\n".join(lines) + "\n"


def main(config: Config) -> None:
    """Measure, and write what was found."""
    check_output(config.output, ("savings_benchmark.json", "savings_table.md"))
    rows = measure(config)
    record = {"machine": machine(config.device), "torch": torch.__version__}
    record |= {"repeats": config.repeats, "n_prompts": config.n_prompts}
    record |= {"n_new": config.n_new, "rows": rows}
    text = json.dumps(record, indent=1)
    replace_file(config.output / "savings_benchmark.json", [f"{text}\n".encode()])
    text = table(rows)
    replace_file(config.output / "savings_table.md", [text.encode()])
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Annotated[Config, tyro.conf.OmitArgPrefixes]))
