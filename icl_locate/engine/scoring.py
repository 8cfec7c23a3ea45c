"""The teacher-forced log-probability of each target."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from icl_locate._types import Part, Segment
from icl_locate.checks.signatures import checked
from icl_locate.engine.forward import cut, keep_logits, masked, require_numbers
from icl_locate.errors import PromptError
from icl_locate.interventions.base import Intervention
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.tokens import Prompts, check_prompts


@checked(PromptError)
def score_targets(
    model: Model,
    prompts: Prompts,
    mask: Intervention | None = None,
    *,
    batch_size: int = 32,
) -> Float[Tensor, "batch"]:
    """The log-probability (natural, summed over tokens) of each prompt's target under a mask.

    The target's tokens follow the prompt as generated tokens would: visible to each other, and rows
    like any others.

    Args:
        mask: a mask, or any intervention or composition of them (`intervene`).
        batch_size: prompts that run at once.

    Raises:
        PromptError: if a target has no tokens; if the prompts do not fit the model.
        NumericalError: if the model gives NaN.
    """
    check_prompts(model, prompts)
    with hold_weights(model):
        scores = [_score_batch(model, *batch) for batch in cut(prompts, mask, batch_size)]
    return torch.cat(scores)


@torch.no_grad()
def _score_batch(
    model: Model, prompts: Prompts, mask: Intervention | None
) -> Float[Tensor, "batch"]:
    with masked(model, append_targets(prompts), mask):
        log_probs, is_target = forced_log_probs(model, prompts)
    return require_numbers(log_probs.masked_fill(~is_target, 0.0).sum(dim=-1)).cpu()


def forced_log_probs(
    model: Model, prompts: Prompts
) -> tuple[Float[Tensor, "batch target_pos"], Bool[Tensor, "batch target_pos"]]:
    """The log-probability of each token of the targets, and which tokens are real.

    Raises:
        PromptError: if a target has no tokens.
    """
    forced = append_targets(prompts)
    width = forced.tokens.shape[1] - prompts.tokens.shape[1]
    tokens = forced.tokens.to(model.cfg.device)
    logits = model(
        tokens,
        attention_mask=forced.attention_mask.long().to(model.cfg.device),
        **keep_logits(model, width + 1),
    )
    predicted = logits[:, -width - 1 : -1].float().log_softmax(dim=-1)
    chosen = predicted.gather(-1, tokens[:, -width:, None])[..., 0]
    return chosen, forced.attention_mask[:, -width:].to(chosen.device)


def append_targets(prompts: Prompts) -> Prompts:
    """The prompts with their targets' tokens appended as GENERATED, padded on the right.

    Raises:
        PromptError: if a target has no tokens.
    """
    empty = [i for i, tokens in enumerate(prompts.target_tokens) if not tokens]
    if empty:
        raise PromptError(f"the target of prompt {empty[0]} has no tokens: expected text to score")
    return append_tokens(prompts, prompts.target_tokens)


def append_tokens(prompts: Prompts, tokens: Sequence[Sequence[int]]) -> Prompts:
    """The prompts with tokens appended to each as GENERATED, padded on the right.

    These continue the queries as they are, so none with content-free inputs come along.
    """
    width = max(map(len, tokens))
    rows = torch.tensor([[*row] + [0] * (width - len(row)) for row in tokens], dtype=torch.long)
    real = torch.arange(width) < torch.tensor([len(row) for row in tokens])[:, None]
    segments = torch.where(real, int(Segment.GENERATED), int(Segment.PAD)).to(torch.int8)
    filler = torch.zeros_like(segments)
    return replace(
        prompts,
        tokens=torch.cat([prompts.tokens, rows], dim=1),
        attention_mask=torch.cat([prompts.attention_mask, real], dim=1),
        segments=torch.cat([prompts.segments, segments], dim=1),
        parts=torch.cat([prompts.parts, filler + int(Part.NONE)], dim=1),
        shots=torch.cat([prompts.shots, filler.long()], dim=1),
        words=torch.cat([prompts.words, filler.long() - 1], dim=1),
        content_free=(),
    )
