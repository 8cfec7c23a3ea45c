"""Class means of states, and which of them is the nearest."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

TIE = 1e-9
"""Distances that differ by less, in lengths of the state, are the same."""


def class_means(
    states: Float[Tensor, "layer item d_model"], classes: Int[Tensor, "item"], n_classes: int
) -> Float[Tensor, "layer label d_model"]:
    """The mean state of each class, in 64 bits."""
    means = [states[:, classes == label].double().mean(dim=1) for label in range(n_classes)]
    return torch.stack(means, dim=1)


def nearest_shares(
    states: Float[Tensor, "layer item d_model"], means: Float[Tensor, "layer label d_model"]
) -> Float[Tensor, "layer item label"]:
    """1 for the nearest mean of each state; of several that are equally near, the same for each."""
    found = []
    for layer, centres in zip(states, means, strict=True):
        wide = layer.double()
        exact = "donot_use_mm_for_euclid_dist"
        far = torch.cdist(wide, centres, compute_mode=exact)
        room = TIE * wide.norm(dim=1, keepdim=True)
        near = (far <= far.amin(dim=1, keepdim=True) + room).double()
        found.append(near / near.sum(dim=1, keepdim=True))
    return torch.stack(found)
