"""What a sweep will take, before it starts: prompts, tokens, operations, time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from icl_locate._types import Segment
from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked, number
from icl_locate.engine.grid import Engine
from icl_locate.engine.scoring import append_targets
from icl_locate.engine.streams import plan_streams
from icl_locate.errors import ModelError, PromptError, TaskError
from icl_locate.interventions.conditions import Condition
from icl_locate.interventions.layers import masked_layers
from icl_locate.models.loading import resolve_device
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts, build_prompts
from icl_locate.tasks.task import Task

_SAMPLE = 16  # queries from which lengths are estimated


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that decide what a sweep costs."""

    n_layers: int
    n_heads: int
    d_model: int
    d_mlp: int
    n_ctx: int | None = None

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Of a Hugging Face configuration."""
        config = config.get_text_config()
        d_model = int(config.hidden_size)
        d_mlp = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
        return cls(
            int(config.num_hidden_layers),
            int(config.num_attention_heads),
            d_model,
            int(d_mlp or 4 * d_model),
            getattr(config, "max_position_embeddings", None),
        )

    @property
    def layer_operations(self) -> int:
        """Floating-point operations of one token in one layer, attention over keys left out."""
        return 2 * (4 * self.d_model**2 + 3 * self.d_model * self.d_mlp)


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take.

    Attributes:
        n_prompts: prompts, over seeds and forms (with and without instruction).
        prompt_tokens: their mean length.
        n_cells: conditions x layers x seeds.
        token_layers: tokens that pass a layer in the shared engine; generated ones at most.
        hooked_token_layers: the same for one run for each cell.
        operations: floating-point operations of the engine that was chosen.
    """

    n_prompts: int
    prompt_tokens: float
    n_cells: int
    token_layers: float
    hooked_token_layers: float
    operations: float

    def describe(self, speed: float | None = None) -> str:
        """In words; with the machine's ``speed`` (operations a second) the time, too."""
        text = (
            f"{self.n_prompts} prompts of {self.prompt_tokens:.0f} tokens on average, "
            f"{self.n_cells} cells (conditions x layers x seeds)\n"
            f"{self.token_layers:.2g} token-layers ({self.hooked_token_layers:.2g} with one run "
            f"for each cell), {self.operations:.2g} floating-point operations at most"
        )
        if speed is None:
            return text
        return f"{text}\nabout {_duration(self.operations / speed)} at {speed:.2g} a second"


@checked(TaskError)
def estimate_sweep(
    tokenizer: Any,
    shape: Shape,
    task: Task,
    conditions: Sequence[Condition],
    *,
    n_shots: int = 5,
    n_queries: int = 64,
    n_seeds: int = 3,
    max_new_tokens: int = 50,
    generates: bool = True,
    scope: str = "from",
    engine: Engine | str = "auto",
    choice: Choice | str = "random",
) -> Estimate:
    """Estimate a sweep from its first prompts; nothing runs, and no weights are needed.

    Args:
        tokenizer: the model's.
        generates: whether answers are generated, else targets are scored.

    Raises:
        PromptError: if a prompt does not fit the model's context, and what `build_prompts` raises.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        refuse("tokenizer", tokenizer, "a tokenizer of transformers", PromptError)
    if not conditions:
        refuse("conditions", conditions, "at least one Condition", TaskError)
    task.queries(n_queries)
    model = SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(n_ctx=shape.n_ctx))
    n_layers, token_layers, hooked, lengths, forms = shape.n_layers, 0.0, 0.0, 0.0, 0
    sample = min(n_queries, _SAMPLE)
    for instruction in sorted({condition.instruction for condition in conditions}):
        prompts = build_prompts(
            model,
            task.test[:sample],
            examples=task.train,
            n_shots=n_shots,
            template=task.template_for(instruction=instruction),
            choice=choice,
        )
        masks = [
            condition.mask(masked_layers(scope, start, n_layers))
            for condition in conditions
            if condition.instruction == instruction
            for start in range(n_layers + 1)
        ]
        seen = prompts if generates else append_targets(prompts)
        rows, n_runs = _rows_by_layer(seen, masks, shape)
        length = float(seen.attention_mask.sum()) / sample
        decoded = max_new_tokens * n_layers * (n_runs + 1) if generates else 0
        token_layers += length * n_layers + rows + decoded
        hooked += (length + (max_new_tokens if generates else 0)) * n_layers * len(masks)
        lengths, forms = lengths + length, forms + 1
    n_each = n_queries * n_seeds
    return Estimate(
        n_prompts=n_each * forms,
        prompt_tokens=lengths / forms,
        n_cells=len(conditions) * (n_layers + 1) * n_seeds,
        token_layers=token_layers * n_each,
        hooked_token_layers=hooked * n_each,
        operations=(hooked if engine == "hooks" else token_layers)
        * n_each
        * shape.layer_operations,
    )


@checked(ModelError, seconds=number(above=0, most=60))
def measure_speed(device: str | torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """The operations a second of a matrix product on this machine."""
    device = resolve_device(device)
    a, b = (torch.randn(1024, 1024, device=device, dtype=dtype) for _ in range(2))
    on_gpu = device.type == "cuda"
    _ = (a @ b).sum().item()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            c = a @ b
        if on_gpu:
            torch.cuda.synchronize()
        count += 10
        del c
    return count * 2 * 1024**3 / (time.perf_counter() - start)


def _rows_by_layer(prompts: Prompts, masks: Sequence[Any], shape: Shape) -> tuple[float, int]:
    """Rows that masked runs compute, summed over layers, a prompt; and the number of runs."""
    readout = prompts.segments == Segment.GENERATED
    readout[:, -1] = True
    streams, _ = plan_streams(
        masks, prompts.segments, readout, shape.n_layers, shape.n_heads, drop=True
    )
    rows, n_runs = 0.0, 0
    for stream in streams:
        each = float(stream.active.valid.sum()) / len(prompts)
        rows += each * sum(shape.n_layers - start for start in stream.starts)
        n_runs += len(stream.starts)
    return rows, n_runs


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
