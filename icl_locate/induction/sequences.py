"""Repeated random tokens, and their control that does not repeat."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.errors import PromptError
from icl_locate.random_tokens import opening_tokens, random_tokens, usable_tokens


def check_lengths(lengths: int | Sequence[int]) -> tuple[int, ...]:
    """One or several lengths of sequences.

    Raises:
        PromptError: if there are none.
    """
    found = (lengths,) if isinstance(lengths, int) else tuple(int(length) for length in lengths)
    if not found:
        raise PromptError("no lengths were given: expected one or more, such as lengths=(50,)")
    return found


def repeated(
    model: TransformerBridge, length: int, n_copies: int, n_sequences: int, seed: int
) -> Int[Tensor, "sequence pos"]:
    """Distinct random tokens, several times behind BOS."""
    tokens = unrepeated(model, length, n_copies, n_sequences, seed)
    first = tokens.shape[1] - n_copies * length
    copy = tokens[:, first : first + length]
    return torch.cat([tokens[:, :first], copy.repeat(1, n_copies)], dim=1)


def unrepeated(
    model: TransformerBridge, length: int, n_copies: int, n_sequences: int, seed: int
) -> Int[Tensor, "sequence pos"]:
    """As many random tokens, which do not repeat as far as the vocabulary allows."""
    width = len(opening_tokens(model)) + n_copies * length
    if length < 2 or n_copies < 1 or n_sequences < 1:
        raise PromptError(
            f"length is {length}, n_copies {n_copies}, n_sequences {n_sequences}: expected 2 or "
            "more tokens, and 1 or more of the others"
        )
    n_usable = len(usable_tokens(model))
    if length > n_usable:
        raise PromptError(
            f"length is {length}, but only {n_usable} tokens of the vocabulary are distinct and "
            "neither rare nor special: use shorter sequences"
        )
    limit = getattr(model.cfg, "n_ctx", None)
    if limit is not None and width > limit:
        raise PromptError(
            f"{n_copies} copies of {length} tokens take {width} positions, but the model's context "
            f"holds {limit}: use shorter sequences, such as lengths=({(limit - 1) // n_copies},)"
        )
    return random_tokens(model, n_sequences, width, seed=seed)
