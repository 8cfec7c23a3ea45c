"""What a sweep will take, before it starts: prompts, tokens, operations, time.

The sweep runs every prompt whole under each mask; what one who drops the context for good would
save, `icl_locate.savings.estimate` says.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Int8
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from icl_locate._types import Segment
from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked, number
from icl_locate.engine.choice import Engine
from icl_locate.engine.scoring import append_targets
from icl_locate.engine.shared.acts import Acts
from icl_locate.engine.shared.decoding import portions
from icl_locate.engine.shared.plan import Plan, plan_runs
from icl_locate.errors import ModelError, PromptError, TaskError
from icl_locate.interventions.conditions import Condition
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.layers import as_starts, masked_layers
from icl_locate.interventions.masks import Mask, parts_of, resolve
from icl_locate.models.costs import ModelCosts
from icl_locate.models.loading import resolve_device
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.tasks.task import Task

_SAMPLE = 16  # queries from which lengths are estimated


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take.

    Attributes:
        n_prompts: prompts, over seeds and forms (with and without instruction).
        prompt_tokens: their mean length.
        n_cells: conditions x layers x seeds.
        token_layers: tokens that pass a layer in the shared engine; generated ones at most.
        hooked_token_layers: the same for one run for each cell that hides something.
        operations: floating-point operations of the engine that was chosen; at most, where answers
            are generated.
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


@dataclass(frozen=True)
class _Work:
    """Tokens that pass a layer, and floating-point operations."""

    token_layers: int = 0
    operations: int = 0

    def __add__(self, other: "_Work") -> "_Work":
        return _Work(self.token_layers + other.token_layers, self.operations + other.operations)

    def __mul__(self, n: int) -> "_Work":
        return _Work(self.token_layers * n, self.operations * n)


_NONE = _Work()


@checked(TaskError)
def estimate_sweep(
    tokenizer: Any,
    costs: ModelCosts,
    task: Task,
    conditions: Sequence[Condition],
    *,
    n_shots: int = 5,
    n_queries: int = 64,
    n_seeds: int = 3,
    max_new_tokens: int = 50,
    generates: bool = True,
    layers: Iterable[int] | None = None,
    scope: str = "from",
    engine: Engine | str = "auto",
    choice: Choice | str = "random",
) -> Estimate:
    """Estimate a sweep from its first prompts; nothing runs, and no weights are needed.

    Operations are those of all matrix products, padding and masked keys included as they are
    computed. Where targets are scored they are exact for up to 16 queries in one batch, and else
    the first 16 stand for all. Where answers are generated they are the most that there can be:
    no answer ends early, and no two are equal. Models whose tokens cannot be dropped (GPT-Neo) and
    label accuracy, which scores every label (for each content-free input, too), take more.

    Args:
        tokenizer: the model's.
        costs: the model's; of a mixture of experts with ``at_most=True``.
        generates: whether answers are generated, else targets are scored.
        layers: the start layers that run, as for `sweep`.

    Raises:
        PromptError, MaskError: if a prompt or a start layer does not fit the model.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        refuse("tokenizer", tokenizer, "a tokenizer of transformers", PromptError)
    if not conditions:
        refuse("conditions", conditions, "at least one Condition", TaskError)
    starts, sample = as_starts(layers, costs.n_layers), min(len(task.queries(n_queries)), _SAMPLE)
    n_new = max_new_tokens if generates else 0
    model = SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(n_ctx=costs.n_ctx))
    options: dict[str, Any] = {"n_shots": n_shots, "choice": choice, "seed": 0, "prepend_bos": None}
    shared, hooked, length = _NONE, _NONE, 0
    forms = sorted({condition.instruction for condition in conditions})
    for instruction in forms:
        prompts = task.build(model, n_queries=sample, instruction=instruction, **options)
        same = [condition for condition in conditions if condition.instruction == instruction]
        masks = _masks(same, scope, starts)
        shared += _shared(costs, prompts, masks, n_new)
        hooked += _hooked(costs, prompts, masks, n_new)
        length += int(prompts.attention_mask.sum())
    n_drawn = n_seeds if task.prompts is None else 1  # given prompts draw nothing
    n_each, chosen = n_queries * n_drawn, hooked if engine == "hooks" else shared
    return Estimate(
        n_prompts=n_each * len(forms),
        prompt_tokens=length / sample / len(forms),
        n_cells=len(conditions) * len(starts) * n_drawn,
        token_layers=shared.token_layers * n_each / sample,
        hooked_token_layers=hooked.token_layers * n_each / sample,
        operations=chosen.operations * n_each / sample,
    )


def _masks(conditions: Sequence[Condition], scope: str, starts: Sequence[int]) -> list[Mask]:
    layers = [masked_layers(scope, start, starts[-1]) for start in starts]
    return [condition.mask(some) for condition in conditions for some in layers]


def _shared(costs: ModelCosts, prompts: Prompts, masks: Sequence[Mask], n_new: int) -> _Work:
    """The shared engine's work on answers of ``n_new`` tokens, or on targets if there are none."""
    if not n_new:
        forced = append_targets(prompts)
        readout = torch.roll(forced.segments == Segment.GENERATED, -1, dims=1)
        return _one_pass(costs, _plan(costs, forced.segments, readout, masks), readout)
    total, (batch, width) = _NONE, prompts.segments.shape
    readout = torch.zeros_like(prompts.attention_mask)
    readout[:, -1] = True
    whole = _plan(costs, prompts.segments, readout, masks, continues=True)
    for portion in portions(whole, n_new, costs.d_model, drop=True):
        plan, n_texts = portion.plan, portion.plan.n_runs + 1
        logits = costs.unembedding_operations(batch * n_texts * (n_new - 1))
        total += _one_pass(costs, plan, readout) + _Work(0, logits)
        for layer in range(costs.n_layers):
            own = sum(len(g.runs) * g.active.width for g in plan.groups[layer])
            n_keys, n_beside = (width + own, n_texts) if portion.by_prompt else (width, 1)
            total += _steps(costs, layer, batch * n_texts, n_keys, n_new - 1, n_beside)
    return total


def _plan(
    costs: ModelCosts,
    segments: Int8[Tensor, "batch pos"],
    readout: Bool[Tensor, "batch pos"],
    masks: Sequence[Mask],
    *,
    continues: bool = False,
) -> Plan:
    n_layers, n_heads = costs.n_layers, costs.n_heads
    acts = [Acts.of(parts_of(mask), (), n_layers, n_heads) for mask in masks]
    positions = Positions(segments)
    return plan_runs(acts, positions, readout, n_layers, n_heads, drop=True, continues=continues)


def _one_pass(costs: ModelCosts, plan: Plan, readout: Bool[Tensor, "batch pos"]) -> _Work:
    """One pass up the layers for the clean run and all masked ones, and what is read out."""
    batch, width = plan.positions.segments.shape
    n_read = (plan.n_runs + 1) * int(readout.sum(dim=1).max()) + 1  # the model's own last row
    work = _Work(0, costs.unembedding_operations(batch * n_read))
    for layer, groups in enumerate(plan.groups):
        work += _rows(costs, layer, batch * width, width)
        for group in groups:
            for some in group.portions(len(group.runs)):
                n_keys = group.n_keys
                if group.lies_beside:
                    n_keys = group.static.width + len(some) * group.active.width
                work += _rows(costs, layer, batch * len(some) * group.active.width, n_keys)
            n_fed = batch * len(group.runs) * group.feeding.width
            work += _Work(n_fed, costs.projection_operations(n_fed))
    return work


def _hooked(costs: ModelCosts, prompts: Prompts, masks: Sequence[Mask], n_new: int) -> _Work:
    """The hooks engine's work: a run a mask, one for all that hide nothing."""
    acts = [bool(resolve(mask, costs.n_layers, costs.n_heads)) for mask in masks]
    batch, n_prompt = prompts.tokens.shape
    width = n_prompt if n_new else append_targets(prompts).tokens.shape[1]
    n_read = n_new or width - n_prompt + 1
    work = _Work(0, costs.unembedding_operations(batch * n_read))
    for layer in range(costs.n_layers):
        work += _rows(costs, layer, batch * width, width)
        work += _steps(costs, layer, batch, width, max(0, n_new - 1), 1)
    return work * (sum(acts) + (not all(acts)))


def _rows(costs: ModelCosts, layer: int, n_rows: int, n_keys: int) -> _Work:
    return _Work(n_rows, costs.layer_operations(layer, n_rows, n_keys))


def _steps(
    costs: ModelCosts, layer: int, n_rows: int, n_keys: int, n_steps: int, n_new: int
) -> _Work:
    operations = costs.decoding_operations(layer, n_rows, n_keys, n_steps, n_new=n_new)
    return _Work(n_rows * n_steps, operations)


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


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
