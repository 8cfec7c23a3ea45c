"""Sequences of random tokens: the inputs on which heads are measured."""

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.errors import PromptError
from icl_locate.models import check_model
from icl_locate.tokens import check_tokenizer

RARE = 0.04
"""The share of the vocabulary's most and least frequent tokens that is left out, each."""


def usable_tokens(model: TransformerBridge) -> Int[Tensor, "token"]:
    """The tokens that random sequences are made of.

    Left out are special tokens, and the first and last 4 % of all ids: vocabularies are ordered by
    frequency, roughly (Crosbie and Shutova 2024 leave out the most and least frequent 4 %).
    """
    size = int(model.cfg.d_vocab)
    tokens = torch.arange(round(size * RARE), size - round(size * RARE))
    special = getattr(model.tokenizer, "all_special_ids", None) or []
    return tokens[~torch.isin(tokens, torch.tensor(special, dtype=torch.long))]


def opening_tokens(model: TransformerBridge) -> list[int]:
    """The special tokens that the model's tokenizer puts before a text: BOS, or nothing.

    That it names a BOS does not mean that it prepends it: TransformerLens names one for all.
    """
    encoding = check_tokenizer(model.tokenizer)("a", return_special_tokens_mask=True)
    ids, special = list(encoding["input_ids"]), list(encoding["special_tokens_mask"])
    return ids[: next((i for i, flag in enumerate(special) if not flag), 0)]


def random_tokens(
    model: TransformerBridge, n_texts: int, length: int, *, seed: int = 0
) -> Int[Tensor, "text pos"]:
    """Random tokens, none twice while there are others, behind BOS if the tokenizer prepends it.

    Each text goes through random orders of the usable tokens, one after the other.

    Args:
        length: tokens of a text, BOS included.
        seed: each text has its own generator, made of it and the text's number.

    Raises:
        PromptError: if the sizes are not 1 or more.
    """
    check_model(model)
    if n_texts < 1 or length < 1:
        raise PromptError(f"{n_texts} texts of {length} tokens: expected 1 or more of both")
    opening, usable = opening_tokens(model), usable_tokens(model)
    n_random = max(length - len(opening), 0)
    rows = []
    for text in range(n_texts):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + text)
        n_orders = -(-n_random // len(usable)) or 1
        orders = [torch.randperm(len(usable), generator=generator) for _ in range(n_orders)]
        rows.append(usable[torch.cat(orders)[:n_random]])
    return torch.cat(
        [torch.tensor([opening] * n_texts, dtype=torch.long), torch.stack(rows)], dim=1
    )
