"""Rows of a table: several ways to the same numbers, timed in turn and held against each other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from turns import Clock, in_turn

from icl_locate.savings.memory import peak_bytes

HOOKS, OURS, CLEAN = "hooks loop", "shared", "one clean pass"
Ways = dict[str, Callable[[], Tensor]]
Row = dict[str, Any]


def measured(
    work: str,
    ways: Ways,
    n_runs: int,
    *,
    clean: Tensor,
    picked: Sequence[int] | slice = slice(None),
    scale: float = 1.0,
    passes: float | None = None,
    clock: Clock = "wall",
) -> Row:
    """A row: medians, ratios, floor, peak memory, differences and how large what is compared is.

    Args:
        ways: what gives ``[run, prompt]``, of which loops give those ``picked`` alone.
        clean: the same without any intervention ``[prompt]``.
        scale: of the loops' time, to all runs.
        passes: the floor, in clean passes.
    """
    seconds, outcomes = in_turn(ways, n_runs, clock=clock)
    loops = [way for way in ways if way not in (OURS, CLEAN)]
    ours = outcomes[OURS][picked]
    difference = max((outcomes[way] - ours).abs().max().item() for way in loops)
    effect = (ours - clean).abs().max().item()
    agreement = f"differ by {difference:.0e}; effects reach {effect:.0e}"
    if set(ours.unique().tolist()) <= {0, 1}:  # answers, right or wrong
        equal = torch.stack([outcomes[way] == ours for way in loops]).all(dim=0)
        agreement = f"{int(equal.sum())} of {equal.numel()} answers equal"
    return {
        "work": work,
        "seconds": seconds | {way: scale * seconds[way] for way in loops},
        "scaled": scale,
        "passes": passes,
        "floor reached": passes and passes * seconds[CLEAN] / seconds[OURS],
        "bytes": peak_bytes(ways[OURS]),
        "difference": difference,
        "effect": effect,
        "agreement": agreement,
    }


def table(rows: Sequence[Row], loops: Sequence[str], caption: str) -> str:
    """The rows in Markdown: seconds, how much faster ours is than each loop, and what came out."""
    with_floor = any(row["passes"] for row in rows)
    columns = ["work", *loops, OURS, *(f"over {loop}" for loop in loops)]
    columns += ["floor", "floor reached"] * with_floor + ["peak memory", "outputs"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        seconds, passes = row["seconds"], row["passes"]
        cells = [row["work"]]
        cells += [_or_dash("{:.2f} s", seconds.get(way)) for way in (*loops, OURS)]
        cells += [
            _or_dash("{:.1f}x", loop in seconds and seconds[loop] / seconds[OURS]) for loop in loops
        ]
        if with_floor:
            reached = row["floor reached"]
            cells += [_or_dash("{:.1f} passes", passes), _or_dash("{:.0%}", reached)]
        cells += [f"{row['bytes'] / 2**20:.0f} MiB", row["agreement"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", caption, ""])


def _or_dash(form: str, value: float | None) -> str:
    return form.format(value) if value else "-"
