"""The "hooks" engine: one hooked run for each cell of a sweep. Slow, plain, and the oracle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl_locate.engine.readout import Run, read
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import Answers, Metric, Readout, Statistics, readout_of
from icl_locate.metrics.base import item_statistics
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts


@dataclass(frozen=True)
class Cell:
    """One cell's outcome: each item's statistics, and its answer where one was generated."""

    statistics: Statistics
    texts: list[str]

    @classmethod
    def of(cls, metric: Metric, answers: Answers, targets: Sequence[str]) -> "Cell":
        """A metric's cell of what its readout gave for each prompt."""
        texts = [str(answer) if readout_of(metric).gives_text else "" for answer in answers]
        return cls(item_statistics(metric, answers, targets), texts)


def join_cells(parts: Sequence[tuple[Sequence[int], Sequence[Cell]]]) -> list[Cell]:
    """The cells of all items, from runs of some of them each.

    Args:
        parts: the numbers of a run's items, and its cells.
    """
    order = np.argsort([i for items, _ in parts for i in items])
    joined = []
    for cells in zip(*(cells for _, cells in parts), strict=True):
        texts = [text for cell in cells for text in cell.texts]
        statistics = np.concatenate([cell.statistics for cell in cells])
        joined.append(Cell(statistics[order], [texts[i] for i in order]))
    return joined


def answer_cell(
    model: Model,
    prompts: Prompts,
    mask: Intervention | None,
    readout: Readout,
    max_new_tokens: int,
    batch_size: int,
) -> Answers:
    """Run the prompts under one mask; an answer to each."""
    return read(Run(model, prompts, max_new_tokens, batch_size), readout, mask)
