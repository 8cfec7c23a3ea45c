"""The "hooks" engine: one hooked run for each cell of a sweep. Slow, plain, and the oracle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.engine.decoding import generate
from icl_locate.engine.labels import score_labels
from icl_locate.engine.scoring import score_targets
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import (
    LabelAccuracy,
    Metric,
    Statistics,
    is_log_prob,
    mean_statistics,
)
from icl_locate.metrics.base import item_statistics
from icl_locate.prompts.tokens import Prompts


@dataclass(frozen=True)
class Cell:
    """One cell's outcome: each item's statistics, and its answer where one was generated."""

    statistics: Statistics
    texts: list[str]


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


def run_cell(
    model: TransformerBridge,
    prompts: Prompts,
    mask: Intervention | None,
    metric: Metric,
    *,
    max_new_tokens: int,
    batch_size: int,
) -> Cell:
    """Run the prompts under one mask, and measure each item."""
    if isinstance(metric, LabelAccuracy):
        scores = score_labels(model, prompts, metric.labels, mask, batch_size=batch_size)
        answers = metric.choose(scores.tolist(), prompts.texts)
        return Cell(item_statistics(metric, answers, prompts.targets), answers)
    if is_log_prob(metric):
        scores = score_targets(model, prompts, mask, batch_size=batch_size)
        return Cell(mean_statistics(scores.tolist()), [""] * len(prompts))
    texts = generate(model, prompts, mask, max_new_tokens, batch_size=batch_size)
    return Cell(item_statistics(metric, texts, prompts.targets), texts)
