"""Pairs as training texts: a source, its target and EOS; no instruction, no examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate.errors import TaskError
from icl_locate.prompts.alignment import TokenizedPrompt, align, continue_prompt
from icl_locate.prompts.template import Example, PromptTemplate

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Texts padded on the right, and what the loss asks for.

    ``labels`` hold -100 where nothing is asked.
    """

    tokens: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    labels: Int[Tensor, "batch pos"]


def tokenize_prompt(tokenizer: Any, template: PromptTemplate, source: str) -> TokenizedPrompt:
    """The prompt that a source makes without examples."""
    return align(tokenizer, template.render([], source), special_tokens=template.special_tokens)


def encode(
    tokenizer: Any, template: PromptTemplate, pairs: Sequence[Example], loss: str
) -> list[tuple[list[int], list[int]]]:
    """Each pair's tokens, EOS included, and labels.

    Raises:
        TaskError: if the tokenizer has no EOS, which the model is to learn to write.
    """
    if tokenizer.eos_token_id is None:
        raise TaskError(
            "the tokenizer has no EOS token, which the adapter learns to write: set one"
        )
    rows, eos = [], int(tokenizer.eos_token_id)
    for pair in pairs:
        prompt = tokenize_prompt(tokenizer, template, pair.source)
        before = prompt.tokens
        after = [*continue_prompt(tokenizer, prompt.text, prompt.body, pair.target, template), eos]
        asked = [IGNORED] * len(before) if loss == "target" else before
        rows.append((before + after, asked + after))
    return rows


def pad(rows: Sequence[tuple[list[int], list[int]]], pad_token: int) -> Batch:
    """A batch of rows; padding is never asked for, even where it is the EOS token."""
    width = max(len(tokens) for tokens, _ in rows)
    return Batch(
        tokens=torch.tensor([tokens + [pad_token] * (width - len(tokens)) for tokens, _ in rows]),
        real=torch.tensor([[i < len(tokens) for i in range(width)] for tokens, _ in rows]),
        labels=torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in rows]),
    )
