"""The "shared" engine: one pass up the layers serves every run.

Everything below the layer at which a run first acts is the clean run. So the clean run goes up
once; at each layer the runs that start there join it with the clean residual, and travel on with
those rows alone that differ from the clean run and can reach the readout.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from icl_locate._types import Segment
from icl_locate.engine.forward import keep_logits, require_numbers
from icl_locate.engine.progress import Tell, silent
from icl_locate.engine.scoring import append_targets
from icl_locate.engine.shared.acts import acts_of, positions_of
from icl_locate.engine.shared.plan import Plan, plan_runs
from icl_locate.engine.shared.replay import first, repeat, replaced_blocks, with_first
from icl_locate.engine.shared.rows import Rows
from icl_locate.engine.shared.shared_pass import SharedPass
from icl_locate.hooks.routes import attention_bias
from icl_locate.interventions.base import Intervention
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

_READ_AT_ONCE = 64  # rows whose logits exist at once: a large vocabulary takes more than the model


def plan_scoring(
    model: Model, forced: Prompts, runs: Sequence[Intervention], *, drop: bool
) -> tuple[Plan, Rows]:
    """The plan of runs that score the targets behind some prompts, and the rows that predict them.

    Raises:
        MaskError: if an intervention fits neither the model nor the prompts.
    """
    readout = torch.roll(forced.segments == Segment.GENERATED, -1, dims=1)
    return _plan(model, forced, runs, readout, drop=drop)


def plan_last(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    *,
    drop: bool,
    continues: bool = False,
) -> tuple[Plan, Rows]:
    """The plan of runs of some prompts whose last rows are read out, and these.

    Args:
        continues: whether tokens are generated behind them.

    Raises:
        MaskError: if an intervention fits neither the model nor the prompts.
    """
    readout = torch.zeros_like(prompts.segments, dtype=torch.bool)
    readout[:, -1] = True
    return _plan(model, prompts, runs, readout, drop=drop, continues=continues)


def _plan(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    readout: Bool[Tensor, "batch pos"],
    *,
    drop: bool,
    continues: bool = False,
) -> tuple[Plan, Rows]:
    plan = plan_runs(
        [acts_of(model, prompts, run) for run in runs],
        positions_of(prompts),
        readout,
        int(model.cfg.n_layers),
        int(model.cfg.n_heads),
        drop=drop,
        continues=continues,
        device=model.cfg.device,
    )
    return plan, Rows.where(readout).to(model.cfg.device)


def can_drop(model: Model) -> bool:
    """Whether rows may be dropped and keys reordered: not where a module masks by index.

    GPT-Neo's local window counts indices, not positions.
    """
    return all(attention_bias(block.attn) is None for block in model.blocks)


def read_out(model: Model, output: Any) -> Float[Tensor, "row pos d_vocab"]:
    """The logits of what the last block gives, by the model's own final norm and unembedding."""
    tokens = torch.zeros(first(output).shape[:2], dtype=torch.long, device=first(output).device)
    with replaced_blocks(model, lambda call: output):  # noqa: ARG005
        logits: Tensor = model(tokens)
    return logits


@torch.no_grad()
def score_many(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    *,
    drop: bool = True,
    rivals: Int[Tensor, "batch rival"] | None = None,
    tell: Tell = silent,
) -> Float[Tensor, "run batch"] | Float[Tensor, "run batch rival"]:
    """Each target's log-probability under each intervention, by one pass up the layers.

    Args:
        runs: masks, or any other interventions of our own kinds and compositions of them.
        drop: whether rows that reach nothing are dropped; else all rows are kept.
        rivals: tokens to score in the place of targets of one token each, instead of these.
        tell: told how much of the pass is done.

    Raises:
        NotSharedError: if the model's blocks cannot be run on other rows.
        NumericalError: if the model gives NaN.
    """
    forced = append_targets(prompts)
    plan, rows = plan_scoring(model, forced, runs, drop=drop)
    output = run_up(model, forced, plan, rows, beside=drop, tell=tell)
    tokens = forced.tokens.to(model.cfg.device)
    following = Rows((rows.positions + 1).clamp(max=tokens.shape[1] - 1), rows.valid)
    wanted = following.take(tokens)[..., None] if rivals is None else rivals.to(tokens)[:, None]
    states, n_runs = first(output), plan.n_runs + 1
    log_probs = torch.cat(
        [
            _log_probs(model, with_first(output, some), words)
            for some, words in zip(
                torch.split(states, _READ_AT_ONCE),
                torch.split(repeat(wanted, n_runs), _READ_AT_ONCE),
                strict=True,
            )
        ]
    )
    sums = log_probs.masked_fill(~repeat(rows.valid, n_runs)[..., None], 0.0).sum(dim=1)
    by_run = require_numbers(sums).view(n_runs, len(tokens), -1).cpu()
    found = by_run[[-1 if place is None else place for place in plan.places]]
    return found[..., 0] if rivals is None else found


def run_up(
    model: Model, forced: Prompts, plan: Plan, rows: Rows, *, beside: bool, tell: Tell = silent
) -> Any:
    """What the last block gives at some rows of all runs, the clean one last."""
    device = model.cfg.device
    shared = SharedPass(plan, rows, int(model.cfg.n_heads), beside=beside, tell=tell)
    with replaced_blocks(model, shared):
        model(
            forced.tokens.to(device),
            attention_mask=forced.attention_mask.long().to(device),
            past_key_values=DynamicCache(),
            use_cache=True,
            **keep_logits(model, 1),
        )
    return shared.readout


@torch.no_grad()
def read_next_many(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    wanted: Int[Tensor, "batch"],
    *,
    drop: bool = True,
    tell: Tell = silent,
) -> tuple[Float[Tensor, "run batch"], Bool[Tensor, "run batch"]]:
    """A token's log-probability behind each prompt under each intervention, and if none has more.

    Args:
        runs, drop, tell: as `score_many` says.
        wanted: the tokens.

    Raises:
        NotSharedError, NumericalError: as `score_many` does.
    """
    plan, rows = plan_last(model, prompts, runs, drop=drop)
    output = run_up(model, prompts, plan, rows, beside=drop, tell=tell)
    log_probs, best = list[Tensor](), list[Tensor]()
    words = wanted.to(model.cfg.device).repeat(plan.n_runs + 1)
    for states, some in zip(
        torch.split(first(output), _READ_AT_ONCE), torch.split(words, _READ_AT_ONCE), strict=True
    ):
        logits = read_out(model, with_first(output, states))[:, -1].float()
        found = require_numbers(logits.log_softmax(dim=-1))
        log_probs.append(found.gather(1, some[:, None])[:, 0])
        best.append(logits.argmax(dim=-1) == some)
    places = [-1 if place is None else place for place in plan.places]
    shape = plan.n_runs + 1, len(prompts)
    found, most = torch.cat(log_probs).view(shape).cpu(), torch.cat(best).view(shape).cpu()
    return found[places], most[places]


def _log_probs(
    model: Model, output: Any, wanted: Int[Tensor, "row pos rival"]
) -> Float[Tensor, "row pos rival"]:
    logits = read_out(model, output).float()
    return logits.log_softmax(dim=-1).gather(-1, wanted)
