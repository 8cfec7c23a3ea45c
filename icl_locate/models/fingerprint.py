"""Whose weights a number was measured on: a checksum over all of them, as they are now.

Every number's bits count, weighted by its place. One changed number is always noticed; any other
change, such as halved weights or two matrices swapped, but for a chance of about 2^-32. It tells
models apart, and is no seal against forgery.
"""

import hashlib
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from icl_locate.checks.arguments import ErrorKind
from icl_locate.models.bridge import Model

_BITS = {1: torch.int8, 2: torch.int16}
_BLOCK = 2**16  # words that share a table of keys; with it they fit a processor's cache
_AT_ONCE = {"cpu": 2**18, "cuda": 2**23}  # words in one operation: on a GPU each call has its price

_held: "weakref.WeakKeyDictionary[Model, list[str]]" = weakref.WeakKeyDictionary()


def fingerprint(model: Model) -> str:
    """A checksum of all weights and buffers: equal for equal ones, in one dtype, on any device."""
    held = _held.get(model)
    if held is None:
        return weights_digest(model.original_model)
    if not held:
        held.append(weights_digest(model.original_model))
    return held[0]


@contextmanager
def hold_weights(model: Model) -> Iterator[None]:
    """Let `fingerprint` look at the weights once for all that runs inside, and changes none.

    For loops over cells and batches; outside, every call looks anew.
    """
    if model in _held:
        yield
        return
    _held[model] = []
    try:
        yield
    finally:
        del _held[model]


@torch.no_grad()
def weights_digest(model: nn.Module) -> str:
    """The checksum of a module's parameters and buffers, under their names."""
    sums = [
        (f"{name} {tuple(weights.shape)} {weights.dtype}", _checksum(weights))
        for name, weights in chain(model.named_parameters(), model.named_buffers())
    ]
    taken = hashlib.sha256()
    if sums:
        device = sums[0][1].device
        together = torch.cat([found.to(device) for _, found in sums]).cpu()
        taken.update("\n".join(name for name, _ in sums).encode())
        taken.update(together.numpy().tobytes())
    return taken.hexdigest()


def _checksum(weights: Tensor) -> Int[Tensor, "block"]:
    """One number for each block of words: the sum of words times odd keys, modulo 2^64."""
    words = _words(weights.detach().contiguous().flatten())
    keys = _keys(str(words.device))
    step = _AT_ONCE.get(words.device.type, _AT_ONCE["cpu"])
    whole = len(words) // _BLOCK * _BLOCK
    sums = [
        words[i : min(i + step, whole)].view(-1, _BLOCK).to(torch.int64).mul_(keys).sum(dim=1)
        for i in range(0, whole, step)
    ]
    tail = words[whole:].to(torch.int64)
    return torch.cat([*sums, tail.mul_(keys[: len(tail)]).sum(dim=0, keepdim=True)])


def _words(flat: Tensor) -> Int[Tensor, "word"]:
    """The bits of numbers as integers: of 32 bits if their count allows it, or their own size."""
    size = flat.element_size()
    if flat.numel() * size % 4:
        return flat.view(_BITS[size])
    words: Tensor = flat.clone() if flat.storage_offset() * size % 4 else flat
    bits: Tensor = words.view(torch.int32)
    return bits


@cache
def _keys(device: str) -> Int[Tensor, "word"]:
    """Odd 64-bit keys, the same everywhere: SplitMix64 of the place."""
    state = torch.arange(1, _BLOCK + 1, dtype=torch.int64) * _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shift(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift(state, 27)) * _signed(0x94D049BB133111EB)
    keys: Tensor = (state ^ _shift(state, 31)) | 1
    return keys.to(device)


def _signed(value: int) -> int:
    """A 64-bit number as torch's signed integers hold it."""
    return value - 2**64 if value >= 2**63 else value


def _shift(values: Int[Tensor, "word"], bits: int) -> Int[Tensor, "word"]:
    """A shift to the right that fills with zeros."""
    shifted: Tensor = (values >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def check_origin(
    what: str, provenance: Mapping[str, Any], model: Model, remedy: str, error: ErrorKind
) -> None:
    """Refuse what was measured on other weights.

    Args:
        what: its name, such as "the reference".
        provenance: its own; the weights' checksum stands under ``fingerprint``.
        remedy: how to make one with this model.
        error: what is raised.
    """
    if provenance.get("fingerprint") != fingerprint(model):
        raise error(
            f"{what} was measured on another model ({provenance.get('model')}, or other weights or "
            f"another dtype of it): {remedy}"
        )
