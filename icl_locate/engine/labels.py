"""The log-probabilities of a classification's labels, each with all of its tokens."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.signatures import checked
from icl_locate.engine.forward import cut, keep_logits, masked, require_numbers
from icl_locate.engine.progress import Tell, part, silent
from icl_locate.engine.scoring import score_targets
from icl_locate.engine.shared.scoring import score_many
from icl_locate.errors import PromptError
from icl_locate.interventions.base import Intervention
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.alignment import continue_prompt
from icl_locate.prompts.tokens import Prompts, check_tokenizer, check_vocabulary


@checked(PromptError)
def score_labels(
    model: Model,
    prompts: Prompts,
    labels: Sequence[str],
    mask: Intervention | None = None,
    *,
    batch_size: int = 32,
) -> Float[Tensor, "batch label"]:
    """The log-probability (natural, summed over its tokens) of each label behind each prompt.

    All labels of one token are read off one run of the prompts; any other takes a run of its own.

    Args:
        mask: a mask, or any intervention or composition of them (`intervene`).
        batch_size: prompts that run at once.

    Raises:
        PromptError: if a label has no tokens, or exceeds the model's context.
        NumericalError: if the model gives NaN.
    """
    tokens = label_tokens(model, prompts, labels)
    short = _of_one_token(tokens)
    found = torch.zeros(len(prompts), len(labels))
    if short:
        first = next_tokens(model, prompts, mask, batch_size)
        for label in short:
            chosen = torch.tensor([row[0] for row in tokens[label]])
            found[:, label] = first.gather(1, chosen[:, None])[:, 0]
    for label in range(len(labels)):
        if label not in short:
            target = replace(prompts, target_tokens=tokens[label])
            found[:, label] = score_targets(model, target, mask, batch_size=batch_size)
    return found


def score_labels_many(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    labels: Sequence[str],
    *,
    drop: bool = True,
    tell: Tell = silent,
) -> Float[Tensor, "run batch label"]:
    """`score_labels` under each intervention, by the shared engine: one pass for all short labels.

    Args:
        tell: told how much of the work is done.

    Raises:
        NotSharedError: if the model's blocks cannot be run on other rows.
        PromptError, NumericalError: as `score_labels` does.
    """
    tokens = label_tokens(model, prompts, labels)
    short = _of_one_token(tokens)
    found = torch.zeros(len(runs), len(prompts), len(labels))
    long = [label for label in range(len(labels)) if label not in short]
    n_passes = len(long) + bool(short)
    shares = iter(part(tell, i / n_passes, (i + 1) / n_passes) for i in range(n_passes))
    if short:
        rivals = torch.tensor([[row[0] for row in tokens[label]] for label in short]).T
        target = replace(prompts, target_tokens=tokens[short[0]])
        found[:, :, short] = score_many(
            model, target, runs, drop=drop, rivals=rivals, tell=next(shares)
        )
    for label, share in zip(long, shares, strict=True):
        target = replace(prompts, target_tokens=tokens[label])
        found[:, :, label] = score_many(model, target, runs, drop=drop, tell=share)
    return found


def label_tokens(model: Model, prompts: Prompts, labels: Sequence[str]) -> list[list[list[int]]]:
    """``tokens[label][prompt]``: each label's tokens as they continue each prompt.

    Raises:
        PromptError: if a label has no tokens, or exceeds the model's context behind a prompt; if
            the prompts are token ids without text.
    """
    if not prompts.as_text:
        raise PromptError(
            "labels are texts, but these prompts are token ids without a tokenizer: give "
            "Prompts.from_tokens the tokenizer, or use metric='log_prob' or 'token_accuracy'"
        )
    tokenizer = check_tokenizer(model.tokenizer)
    found = [
        [
            continue_prompt(tokenizer, text, body, label, prompts.template)
            for text, body in zip(prompts.texts, prompts.bodies, strict=True)
        ]
        for label in labels
    ]
    check_vocabulary(model, [row for rows in found for row in rows])
    limit = getattr(model.cfg, "n_ctx", None)
    lengths = prompts.attention_mask.sum(dim=1).tolist()
    for label, rows in zip(labels, found, strict=True):
        for length, row in zip(lengths, rows, strict=True):
            if not row or (limit is not None and length + len(row) > limit):
                raise PromptError(
                    f"the label {label!r} takes {len(row)} tokens behind a prompt of {length}: "
                    f"expected 1 or more, within the model's context of {limit}"
                )
    return found


def _of_one_token(tokens: Sequence[Sequence[Sequence[int]]]) -> list[int]:
    return [label for label, rows in enumerate(tokens) if all(len(row) == 1 for row in rows)]


@torch.no_grad()
def next_tokens(
    model: Model, prompts: Prompts, mask: Intervention | None, batch_size: int
) -> Float[Tensor, "batch d_vocab"]:
    """The log-probabilities of what follows each prompt."""
    device = model.cfg.device
    found = []
    with hold_weights(model):
        for batch, acting in cut(prompts, mask, batch_size):
            with masked(model, batch, acting):
                logits = model(
                    batch.tokens.to(device),
                    attention_mask=batch.attention_mask.long().to(device),
                    **keep_logits(model, 1),
                )
            found.append(require_numbers(logits[:, -1].float().log_softmax(dim=-1)).cpu())
    return torch.cat(found)
