"""What is shown while a study runs: cells done, time left, and the curves as they form."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np
from numpy import ndarray
from tqdm.auto import tqdm

from icl_locate.checks.reprs import short_repr
from icl_locate.metrics import Metric, score_totals
from icl_locate.metrics.base import item_statistics
from icl_locate.metrics.traits import runs_programs
from icl_locate.studies.units import MISSING, Answered

_BARS = "▁▂▃▄▅▆▇█"
_UNKNOWN = "·"
_PAUSE = 1.0  # seconds between two looks at the scores


def sparkline(values: Sequence[float | None]) -> str:
    """Some numbers as a row of bars, from the least to the greatest; unknown ones as dots.

    >>> sparkline([0.1, None, 0.5, 0.9])
    '▁·▅█'
    """
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        _UNKNOWN if value is None else _BARS[round((value - low) * scale)] for value in values
    )


@dataclass
class Display:
    """A bar over cells, and below it a line for each curve.

    Attributes:
        bar: ``bar.update`` is told how many more cells are done.
        lines: by a curve's name, what shows it.
    """

    bar: Any
    lines: Mapping[str, Any]

    def show(self, name: str, scores: Sequence[float | None]) -> None:
        """Show a curve as far as it is known."""
        known = [score for score in scores if score is not None]
        if known and name in self.lines:
            ends = f"{min(known):.3g} to {max(known):.3g}"
            self.lines[name].set_description_str(f"  {sparkline(scores)}  {name}: {ends}")


@contextmanager
def display(total: int, what: str, curves: Sequence[str] = (), *, show: bool) -> Iterator[Display]:
    """A display inside a ``with``, in a terminal or a notebook.

    Args:
        total: cells.
        what: what runs.
        curves: their names.
        show: whether anything is shown at all.
    """
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=total, unit="cell", desc=what, disable=not show))
        lines = {
            name: stack.enter_context(
                tqdm(total=0, bar_format="{desc}", position=place, leave=False, disable=not show)
            )
            for place, name in enumerate(curves if show else (), start=1)
        }
        yield Display(bar, lines)


@short_repr("metric", "curves")
@dataclass
class Watch:
    """Scores answers while they come, each once, and shows the curves that they make.

    Attributes:
        metric: of the answers; one that runs programs is not shown.
        targets: of the prompts of each request.
        curves: by the curve's name, where its points come from: for each layer the request and the
            run of each cell, which is a mean over them.
    """

    metric: Metric
    targets: Sequence[Sequence[str]]
    curves: Mapping[str, Sequence[Sequence[tuple[int, int]]]]
    show: Callable[[str, Sequence[float | None]], None]
    _found: dict[tuple[int, int], dict[int, ndarray]] = field(default_factory=dict)
    _looked: float = float("-inf")

    def __call__(self, answered: Sequence[Answered]) -> None:
        """Look at all answers that there are by now."""
        if runs_programs(self.metric) or monotonic() - self._looked < _PAUSE:
            return
        for request, rows in enumerate(answered):
            for run, row in enumerate(rows):
                self._score(request, run, row)
        for name, points in self.curves.items():
            self.show(name, [self._mean(cells) for cells in points])
        self._looked = monotonic()

    def _score(self, request: int, run: int, row: Sequence[Any]) -> None:
        found = self._found.setdefault((request, run), {})
        new = [i for i, answer in enumerate(row) if answer is not MISSING and i not in found]
        if new:
            targets = [self.targets[request][i] for i in new]
            table = item_statistics(self.metric, [row[i] for i in new], targets)
            found.update(zip(new, table, strict=True))

    def _mean(self, cells: Sequence[tuple[int, int]]) -> float | None:
        """The score of all items known at a layer, of all seeds together."""
        rows = [row for cell in cells for row in self._found.get(cell, {}).values()]
        return float(score_totals(self.metric, np.sum(rows, axis=0))) if rows else None
