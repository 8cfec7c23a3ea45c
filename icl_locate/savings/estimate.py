"""What dropping the context saves, from sizes alone.

Of a batch of prompts, with the context and without; what a whole sweep takes, which drops nothing,
`icl_locate.masking.estimate` says.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from icl_locate.checks.arguments import check_count
from icl_locate.checks.signatures import checked
from icl_locate.errors import PromptError
from icl_locate.models.bridge import Model
from icl_locate.models.costs import ModelCosts


@dataclass(frozen=True)
class Savings:
    """What a batch of prompts takes if its context is dropped from a layer on, and if it is not.

    Attributes:
        from_layer: the layer from which the context is dropped.
        paper: the share saved by the formula of Sia et al. (`paper_share`).
        prefill_operations: floating-point operations until the first new token: (whole, dropped).
        decode_operations: those of all further ones.
        cache_bytes: keys and values of all layers at the end.
    """

    from_layer: int
    paper: float
    prefill_operations: tuple[int, int]
    decode_operations: tuple[int, int]
    cache_bytes: tuple[int, int]

    @property
    def prefill_share(self) -> float:
        """The share of the prefill's operations that is saved."""
        return _saved(self.prefill_operations)

    @property
    def decode_share(self) -> float:
        """The share of decoding's operations that is saved: attention's over the context."""
        return _saved(self.decode_operations)

    @property
    def total_share(self) -> float:
        """The share of all operations that is saved."""
        (whole, dropped), (more, fewer) = self.prefill_operations, self.decode_operations
        return _saved((whole + more, dropped + fewer))

    @property
    def cache_share(self) -> float:
        """The share of the cache that is saved."""
        return _saved(self.cache_bytes)


@checked(PromptError)
def paper_share(n_layers: int, from_layer: int, n_shots: int) -> float:
    """``(n - r) / n * k / (k + 1)``: the saving that Sia et al. (2024, section 5) estimate.

    ``r`` layers read ``k`` examples, all others only a query that is as long as one of them. It
    leaves out instructions, unequal lengths, attention's quadratic term, and decoding.

    >>> round(paper_share(32, 14, 5), 3)
    0.469
    """
    return (n_layers - from_layer) / n_layers * n_shots / (n_shots + 1)


@checked(PromptError)
def estimate_savings(
    model: str | Path | Model | ModelCosts | Any,
    from_layer: int,
    *,
    n_shots: int = 5,
    shot_tokens: int = 50,
    query_tokens: int = 50,
    instruction_tokens: int = 0,
    n_new_tokens: int = 50,
    n_prompts: int = 1,
    bos: bool = True,
    dtype: torch.dtype | str = torch.float32,
) -> Savings:
    """Count what is saved if instructions and examples are dropped from a layer on.

    Nothing is loaded but the model's configuration.

    Args:
        model: as `ModelCosts.of` takes it, or `ModelCosts`.
        from_layer: 0 to ``n_layers``.
        n_shots, shot_tokens, query_tokens, instruction_tokens: the prompt, in tokens.
        n_new_tokens: generated after it.
        n_prompts: of a batch.
        bos: whether a prompt begins with BOS, which is kept.
        dtype: of the cache.

    Raises:
        ModelError: as `ModelCosts.of` does.
        PromptError: if a number is out of range.
    """
    costs = model if isinstance(model, ModelCosts) else ModelCosts.of(model)
    check_count("from_layer", from_layer, least=0, most=costs.n_layers, error=PromptError)
    kept = bos + query_tokens
    whole = kept + instruction_tokens + n_shots * shot_tokens
    by_layer = [whole if layer < from_layer else kept for layer in range(costs.n_layers)]

    def count(widths: list[int]) -> tuple[int, int, int]:
        prefill = sum(costs.layer_operations(i, n, n) for i, n in enumerate(widths))
        decode = sum(
            costs.decoding_operations(i, 1, n, n_new_tokens - 1) for i, n in enumerate(widths)
        )
        logits = costs.unembedding_operations(1)
        cache = sum(costs.cache_bytes(n + n_new_tokens - 1, dtype) for n in widths)
        found = prefill + logits, decode + (n_new_tokens - 1) * logits, cache
        return found[0] * n_prompts, found[1] * n_prompts, found[2] * n_prompts

    full, dropped = count([whole] * costs.n_layers), count(by_layer)
    return Savings(
        from_layer=from_layer,
        paper=paper_share(costs.n_layers, from_layer, n_shots),
        prefill_operations=(full[0], dropped[0]),
        decode_operations=(full[1], dropped[1]),
        cache_bytes=(full[2], dropped[2]),
    )


def _saved(pair: tuple[int, int]) -> float:
    whole, dropped = pair
    return 1 - dropped / whole if whole else 0.0
