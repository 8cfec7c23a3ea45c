"""What dropping the context saves, measured beside what it costs in answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.arguments import check_count, check_items
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.generation import generate
from icl_locate.errors import MaskError, TaskError
from icl_locate.metrics import Metric, TextScore, require_answers
from icl_locate.metrics.base import check_columns, item_statistics
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.savings.result import MeasuredSavings
from icl_locate.savings.runs import Runs
from icl_locate.studies.intervals import Spread
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task


@checked(TaskError, task=anything, layers=anything, metric=anything)
def measure_savings(
    model: Model,
    task: Task | str | Path,
    layers: Sequence[int] | None = None,
    *,
    n_shots: int = 5,
    n_queries: int | None = None,
    seed: int = 0,
    metric: str | Metric | TextScore | None = None,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    max_new_tokens: int = 50,
    repeats: int = 3,
    batch_size: int = 32,
) -> MeasuredSavings:
    """Generate with the context dropped from each layer on, and measure time, memory and answers.

    Times are of ``max_new_tokens`` new tokens for every prompt, whatever would end an answer; all
    start layers run in turn, ``repeats`` times. Answers are generated apart, as `generate` does.

    Args:
        layers: start layers, ascending; ``None`` means all. Ordinary generation is always added.
        n_queries, n_shots, seed, choice, prepend_bos, metric: as `sweep` says, but for the default
            of 32 queries.
        repeats: runs whose times are kept.
        batch_size: prompts that run at once.

    Raises:
        TaskError: if the metric needs no generated answers, or a number is out of range.
        ModelError: if context cannot be dropped exactly on this model.
        MaskError: if a layer is out of range.
    """
    setting = Setting.of(
        task,
        metric=metric,
        n_queries=n_queries,
        seeds=seed,
        n_shots=n_shots,
        choice=choice,
        prepend_bos=prepend_bos,
        max_new_tokens=max_new_tokens,
        most_queries=32,
    )
    require_answers(setting.metric)
    starts = _choose_layers(layers, int(model.cfg.n_layers))
    return _measure(model, setting, starts, repeats, batch_size)


def _measure(
    model: Model,
    setting: Setting,
    starts: Sequence[int],
    repeats: int,
    batch_size: int,
) -> MeasuredSavings:
    (seed,) = setting.seeds
    prompts = setting.prompts(model, seed)
    recipe = {
        **setting.recipe(model, [prompts]),
        "seed": seed,
        "batch_size": batch_size,
        "device": str(model.cfg.device),
        "threads": torch.get_num_threads(),
    }
    table = _answer(model, prompts, setting, starts, batch_size)
    new = setting.max_new_tokens
    runs = [Runs(model, prompts, start, new, batch_size) for start in starts]
    for _ in range(repeats):
        for run in runs:
            run.measure_time()
    spread = Spread.of(setting.metric, table[:, None])
    return MeasuredSavings(
        layers=tuple(starts),
        prefill_seconds=torch.tensor([run.prefill for run in runs]),
        decode_seconds=torch.tensor([run.decode for run in runs]),
        peak_bytes=torch.tensor([run.peak() for run in runs]),
        cache_bytes=torch.tensor([run.cache_bytes for run in runs]),
        scores=torch.from_numpy(spread.mean),
        interval=torch.from_numpy(spread.interval(0.95)),
        metric=setting.metric.name,
        provenance=recipe | setting.outcome(),
        statistics=torch.from_numpy(table),
        custom_metric=setting.custom_metric,
    )


def _answer(
    model: Model,
    prompts: Prompts,
    setting: Setting,
    starts: Sequence[int],
    batch_size: int,
) -> Float[ndarray, "layer item stat"]:
    """The statistics of the answers with the context dropped from each layer on."""
    tables = []
    for start in starts:
        texts = generate(
            model,
            prompts,
            max_new_tokens=setting.max_new_tokens,
            drop_context_from=start if start < int(model.cfg.n_layers) else None,
            batch_size=batch_size,
        )
        tables.append(item_statistics(setting.metric, texts, prompts.targets))
    check_columns(setting.metric, tables)
    return np.stack(tables)


def _choose_layers(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    """The start layers, ascending; the last is ordinary generation."""
    if layers is None:
        return [*range(n_layers + 1)]
    given = check_items("layers", layers, "a list of layers", error=MaskError)
    starts = (
        check_count(f"layers[{i}]", one, least=0, most=n_layers, error=MaskError)
        for i, one in enumerate(given)
    )
    return sorted({*starts, n_layers})
