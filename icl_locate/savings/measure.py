"""What dropping the context saves, measured beside what it costs in answers."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import DynamicCache

from icl_locate.checks.arguments import check_count, check_counts, check_items, check_text
from icl_locate.checks.contents import check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.decoding import check_generation
from icl_locate.engine.dropping import drop_context
from icl_locate.engine.forward import keep_logits
from icl_locate.engine.generation import generate
from icl_locate.errors import MaskError, ResultError, TaskError
from icl_locate.hooks import hold
from icl_locate.hooks.padding import runs_of
from icl_locate.metrics import (
    Metric,
    TextScore,
    judged,
    require_answers,
    score_totals,
)
from icl_locate.metrics.base import check_columns, item_statistics
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts, build_prompts
from icl_locate.records.saved import Saved
from icl_locate.savings.memory import peak_bytes
from icl_locate.studies.intervals import bootstrap_scores, percentile_interval
from icl_locate.studies.recipe import describe_model, prompts_digest
from icl_locate.studies.setting import choose_metric
from icl_locate.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd


@short_repr("model", "task", "metric", "layers", "prefill_seconds", "scores")
@dataclass(frozen=True)
class MeasuredSavings(
    Saved,
    form="icl_locate.MeasuredSavings/2",
    tensors=(
        "prefill_seconds",
        "decode_seconds",
        "peak_bytes",
        "cache_bytes",
        "scores",
        "interval",
    ),
    labels=("layers", "metric", "provenance"),
):
    """What generation takes, and gives, with the context dropped from each of some layers on.

    Attributes:
        layers: the start layers; the last, ``n_layers``, is ordinary generation.
        prefill_seconds: until the first new token of all prompts.
        decode_seconds: for all further tokens.
        peak_bytes: the most that tensors made by the run took at once.
        cache_bytes: keys and values at the end.
        scores: the task's metric on the answers.
        interval: of the scores, 95 % by bootstrap over items; row 0 low, row 1 high.
        metric: its name.
        provenance: model, task, prompts' hash, sizes, versions.
    """

    layers: tuple[int, ...]
    prefill_seconds: Float[Tensor, "layer repeat"]
    decode_seconds: Float[Tensor, "layer repeat"]
    peak_bytes: Int[Tensor, "layer"]
    cache_bytes: Int[Tensor, "layer"]
    scores: Float[Tensor, "layer"]
    interval: Float[Tensor, "bound layer"]
    metric: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        settle(
            self,
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
            metric=check_text("metric", self.metric, error=ResultError),
            provenance=check_recipe(self.provenance),
        )
        n = len(self.layers)
        check_table("prefill_seconds", self.prefill_seconds, (n, None))
        check_table("decode_seconds", self.decode_seconds, tuple(self.prefill_seconds.shape))
        check_table("peak_bytes", self.peak_bytes, (n,), whole=True)
        check_table("cache_bytes", self.cache_bytes, (n,), whole=True)
        check_table("scores", self.scores, (n,))
        check_table("interval", self.interval, (2, n), finite=False)  # NaN for a single item
        if not self.prefill_seconds.shape[1]:
            raise ResultError("prefill_seconds has no columns: expected one for each repeat")

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a layer; each ``saved`` is a share of ordinary generation, times by medians."""
        import pandas as pd

        prefill, decode = (
            seconds.median(dim=1).values for seconds in (self.prefill_seconds, self.decode_seconds)
        )

        def saved(values: Tensor) -> Any:
            return (1 - values / values[-1]).numpy()

        return pd.DataFrame(
            {
                "from_layer": self.layers,
                self.metric: self.scores.numpy(),
                "low": self.interval[0].numpy(),
                "high": self.interval[1].numpy(),
                "prefill_seconds": prefill.numpy(),
                "prefill_saved": saved(prefill),
                "decode_seconds": decode.numpy(),
                "decode_saved": saved(decode),
                "peak_bytes": self.peak_bytes.numpy(),
                "peak_saved": saved(self.peak_bytes),
                "cache_bytes": self.cache_bytes.numpy(),
                "cache_saved": saved(self.cache_bytes),
            }
        )


@checked(TaskError, layers=anything, metric=anything)
def measure_savings(
    model: TransformerBridge,
    task: Task,
    layers: Sequence[int] | None = None,
    *,
    n_shots: int = 5,
    n_queries: int = 32,
    seed: int = 0,
    metric: str | Metric | TextScore | None = None,
    choice: Choice | str | None = None,
    max_new_tokens: int = 50,
    repeats: int = 3,
    batch_size: int = 32,
) -> MeasuredSavings:
    """Generate with the context dropped from each layer on, and measure time, memory and answers.

    Times are of ``max_new_tokens`` new tokens for every prompt, whatever would end an answer; all
    start layers run in turn, ``repeats`` times. Answers are generated apart, as `generate` does.

    Args:
        layers: start layers, ascending; ``None`` means all. Ordinary generation is always added.
        n_queries, n_shots, seed, choice, metric: as `sweep` says.
        repeats: runs whose times are kept.
        batch_size: prompts that run at once.

    Raises:
        TaskError: if the metric needs no generated answers, or a number is out of range.
        ModelError: if context cannot be dropped exactly on this model.
        MaskError: if a layer is out of range.
    """
    n_layers = int(model.cfg.n_layers)
    starts = _choose_layers(layers, n_layers)
    scored = choose_metric(task, metric, n_queries)
    require_answers(scored)
    prompts = build_prompts(
        model,
        task.queries(n_queries),
        examples=task.train,
        n_shots=n_shots,
        template=task.template,
        seed=seed,
        choice=choice or task.choice,
    )
    check_generation(model, prompts, scored, max_new_tokens)
    found = [*starts, n_layers]
    runs = {start: Runs(model, prompts, start, max_new_tokens, batch_size) for start in found}
    statistics = []
    for start in found:
        texts = generate(
            model,
            prompts,
            max_new_tokens=max_new_tokens,
            drop_context_from=start if start < n_layers else None,
            batch_size=batch_size,
        )
        table = item_statistics(scored, texts, prompts.targets)
        statistics.append(table)
    for _ in range(repeats):
        for start in found:
            runs[start].measure_time()
    check_columns(scored, statistics)
    samples = bootstrap_scores(scored, np.stack(statistics)[:, None], 1000, 0)
    scores = score_totals(scored, np.stack(statistics).sum(axis=1))
    return MeasuredSavings(
        layers=tuple(found),
        prefill_seconds=torch.tensor([runs[start].prefill for start in found]),
        decode_seconds=torch.tensor([runs[start].decode for start in found]),
        peak_bytes=torch.tensor([runs[start].peak() for start in found]),
        cache_bytes=torch.tensor([runs[start].cache_bytes for start in found]),
        scores=torch.from_numpy(scores),
        interval=torch.from_numpy(percentile_interval(samples, 0.95, n_queries)),
        metric=scored.name,
        provenance={
            **describe_model(model),
            "task": task.name,
            "template": asdict(task.template),
            "choice": choice or task.choice,
            "n_shots": n_shots,
            "n_queries": n_queries,
            "seed": seed,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "device": str(model.cfg.device),
            "threads": torch.get_num_threads(),
            "signature": scored.signature,
            **judged(scored),
            "prompts_sha256": prompts_digest([prompts]),
        },
    )


def _choose_layers(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    if layers is None:
        return [*range(n_layers)]
    given = check_items("layers", layers, "a list of layers", error=MaskError)
    starts = (
        check_count(f"layers[{i}]", one, least=0, most=n_layers, error=MaskError)
        for i, one in enumerate(given)
    )
    return sorted({*starts} - {n_layers})


@dataclass
class Runs:
    """Generation of so many tokens, with the context dropped from one layer on."""

    model: TransformerBridge
    prompts: Prompts
    start: int
    n_new: int
    batch_size: int
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    cache_bytes: int = 0

    def measure_time(self) -> None:
        """Run once more, and note the seconds."""
        found = [self._run(batch) for batch in self.prompts.batches(self.batch_size)]
        self.prefill.append(sum(first - begun for begun, first, _, _ in found))
        self.decode.append(sum(ended - first for _, first, ended, _ in found))
        self.cache_bytes = sum(cache for _, _, _, cache in found)

    def peak(self) -> int:
        """The most that the tensors of a run of one batch take at once."""
        batch = next(self.prompts.batches(self.batch_size))
        return peak_bytes(lambda: self._run(batch))

    @torch.no_grad()
    def _run(self, batch: Prompts) -> tuple[float, float, float, int]:
        """When a run began, had its first new tokens, and ended; and what its cache takes."""
        device, cache = self.model.cfg.device, DynamicCache()
        step, seen = batch.tokens.to(device), batch.attention_mask.long().to(device)
        times = [self._now()]
        with self._context(batch):
            for n in range(self.n_new):
                logits = self.model(
                    step,
                    attention_mask=seen,
                    past_key_values=cache,
                    use_cache=True,
                    **keep_logits(self.model, 1),
                )
                step = logits[:, -1].argmax(dim=-1, keepdim=True)
                seen = torch.nn.functional.pad(seen, (0, 1), value=1)
                if n == 0:
                    times.append(self._now())
        held = [2 * layer.keys.numel() * layer.keys.element_size() for layer in cache.layers]
        return times[0], times[1], self._now(), sum(held)

    def _context(self, batch: Prompts) -> AbstractContextManager[object]:
        if self.start == int(self.model.cfg.n_layers):
            return hold(self.model, runs_of(batch))
        return drop_context(self.model, batch, self.start)

    def _now(self) -> float:
        if torch.device(self.model.cfg.device).type == "cuda":
            torch.cuda.synchronize(self.model.cfg.device)
        return time.perf_counter()
