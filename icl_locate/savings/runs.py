"""Runs that are timed: generation of so many tokens, with the context dropped or not."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import DynamicCache

from icl_locate.engine.dropping import drop_context
from icl_locate.engine.forward import keep_logits
from icl_locate.hooks import hold
from icl_locate.hooks.padding import runs_of
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts
from icl_locate.savings.memory import peak_bytes


@dataclass
class Runs:
    """Generation of so many tokens, with the context dropped from one layer on."""

    model: Model
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
