"""Which heads are scaled, and by how much."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from icl_locate.checks.arguments import check_number, refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import MaskError
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.layers import check_heads, list_pairs

_EXPECTED = "factors by (layer, head), such as {(3, 1): 0.5}, or a tensor [layer, head] of them"


@short_repr("factors")
@dataclass(frozen=True, eq=False)  # tensors are no keys
class HeadScale(Intervention):
    """Multiply the outputs of some heads by factors (gates), at every position.

    Attributes:
        factors: by (layer, head), of the heads that are scaled; or a tensor of all heads'
            ``[layer, head]``, to which gradients flow.

    Raises:
        MaskError: if the factors are none.
    """

    factors: Mapping[tuple[int, int], float] | Float[Tensor, "layer head"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", _as_factors(self.factors))

    @checked(MaskError)
    def table(
        self, n_layers: int, n_heads: int
    ) -> tuple[Float[Tensor, "layer head"], Bool[Tensor, "layer head"]]:
        """Each head's factor (1 where none was given), and which heads were named.

        Raises:
            MaskError: if the model has no such head, or the tensor is for another model.
        """
        factors = self.factors
        if isinstance(factors, Tensor):
            if factors.shape != (n_layers, n_heads):
                raise MaskError(
                    f"factors are of shape {tuple(factors.shape)}: expected one for each head of "
                    f"the model, [layer, head] = {[n_layers, n_heads]}"
                )
            return factors, torch.ones(n_layers, n_heads, dtype=torch.bool)
        check_heads(factors, n_layers, n_heads)
        table, named = torch.ones(n_layers, n_heads), torch.zeros(n_layers, n_heads)
        for (layer, head), factor in factors.items():
            table[layer, head], named[layer, head] = factor, 1
        return table, named.bool()


def _as_factors(value: Any) -> Any:
    """Factors by plain (layer, head) pairs, or the tensor as it came."""
    if isinstance(value, Tensor):
        if value.ndim != 2 or not value.is_floating_point():
            refuse("factors", value, _EXPECTED, MaskError)
        return value
    if not isinstance(value, Mapping):
        refuse("factors", value, _EXPECTED, MaskError)
    heads = list_pairs(list(value), "factors")
    numbers = [check_number(f"factors[{head}]", v, error=MaskError) for head, v in value.items()]
    return dict(zip(heads, numbers, strict=True))
