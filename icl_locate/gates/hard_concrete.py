"""The hard concrete distribution: gates in [0, 1] that can be 0 and 1, with gradients.

Louizos, Welling and Kingma, *Learning Sparse Neural Networks through L0 Regularization* (2018).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature, and the ends of the stretched interval."""

_SHIFT = BETA * math.log(-GAMMA / ZETA)


def sample_gates(
    alpha: Float[Tensor, "layer head"], uniform: Float[Tensor, "layer head"]
) -> Float[Tensor, "layer head"]:
    """Gates drawn by uniform numbers in (0, 1)."""
    noise = uniform.log() - (1 - uniform).log()
    return _stretch(torch.sigmoid((noise + alpha) / BETA))


def settled_gates(alpha: Float[Tensor, "layer head"]) -> Float[Tensor, "layer head"]:
    """The gates that are used once they are learnt: no noise."""
    return _stretch(torch.sigmoid(alpha))


def open_chance(alpha: Float[Tensor, "layer head"]) -> Float[Tensor, "layer head"]:
    """The probability that a drawn gate is not 0; its sum is the expected L0 norm."""
    return torch.sigmoid(alpha - _SHIFT)


def _stretch(values: Tensor) -> Tensor:
    return (values * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
