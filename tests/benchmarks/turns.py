"""Several ways to the same numbers, in turn in one run; where the tables of the docs come from."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

DOCS = Path(__file__).parents[2] / "docs"
Clock = Literal["wall", "processor"]
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def timed(run: Callable[[], Any], clock: Clock = "wall") -> tuple[float, Any]:
    """Seconds of a run, and its outcome; other processes do not stretch a processor's seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = CLOCKS[clock]()
    outcome = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return CLOCKS[clock]() - start, outcome


def in_turn(
    ways: dict[str, Callable[[], Any]],
    n_runs: int,
    *,
    ours: str = "shared",
    clock: Clock = "wall",
) -> tuple[dict[str, float], dict[str, Any]]:
    """Run all ways in turn, ours once before to warm up; their median seconds, and outcomes."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    outcomes: dict[str, Any] = {}
    timed(ways[ours])
    for _ in range(n_runs):
        for way, run in ways.items():
            taken, outcomes[way] = timed(run, clock)
            seconds[way].append(taken)
    return {way: statistics.median(values) for way, values in seconds.items()}, outcomes


def machine(device: str) -> str:
    """What it ran on, as a table's caption names it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
