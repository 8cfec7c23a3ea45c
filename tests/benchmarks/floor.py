"""Floating-point operations that no exact way can do without, counted from shapes and texts."""

from collections.abc import Iterable, Sequence

import torch
from patches import Patch
from random_llama import Shape, with_generated
from torch import Tensor

import icl_locate as icl
from icl_locate import Segment


def layer_flops(shape: Shape, n_rows: int, n_keys: int) -> float:
    """Multiply-adds of one layer: projections, gated MLP, attention over the keys."""
    d, d_kv = shape.d_model, shape.n_kv_heads * shape.d_head
    return n_rows * (2 * d * d + 2 * d * d_kv + 3 * d * shape.d_mlp + 2 * n_keys * d)


def clean_flops(shape: Shape, n_prompts: int, n_tokens: int) -> float:
    """A clean pass."""
    return n_prompts * shape.n_layers * layer_flops(shape, n_tokens, n_tokens)


def scoring_flops(shape: Shape, prompts: icl.Prompts, masks: Sequence[icl.ContextMask]) -> float:
    """One clean pass, and for each run only the rows that differ and reach the readout."""
    width = len(prompts.target_tokens[0])
    segments = with_generated(prompts.segments, width)
    readout = torch.roll(segments == Segment.GENERATED, -1, dims=1)
    return _passes(shape, segments, readout, masks)


def patch_flops(
    shape: Shape, n_prompts: int, n_tokens: int, patches: Iterable[Patch], n_read: int
) -> float:
    """One clean pass, and for each patch only the rows that differ and reach the readout.

    At a patched head's own layer that is its part of the output projection, and the MLP. At the
    last layer all rows that differ are keys and values, but only rows that are read are more.

    Args:
        n_read: rows that are read, the last ones.
    """
    d, n_layers, flops = shape.d_model, shape.n_layers, clean_flops(shape, n_prompts, n_tokens)
    d_kv, mlp = shape.n_kv_heads * shape.d_head, 3 * d * shape.d_mlp
    for patch in patches:
        n_rows = 1 if patch.last else n_tokens
        n_top = min(n_rows, n_read)
        if patch.head is not None:
            n_needed = n_top if patch.layer == n_layers - 1 else n_rows
            flops += n_prompts * n_needed * (d * shape.d_head + mlp)
        if patch.layer < n_layers - 1:
            between = n_layers - 2 - patch.layer
            keys_and_values = (n_rows - n_top) * 2 * d * d_kv
            rows = between * layer_flops(shape, n_rows, n_tokens)
            flops += n_prompts * (rows + layer_flops(shape, n_top, n_tokens) + keys_and_values)
    return flops


def generation_flops(
    shape: Shape,
    prompts: icl.Prompts,
    masks: Sequence[icl.ContextMask],
    answers: Tensor,
) -> tuple[float, float]:
    """What prompts take, and what new tokens take: every layer from their run's start on.

    Below it, equal texts of a prompt are one computation.

    Args:
        masks: of one condition, by ascending start layer.
        answers: the new tokens ``[mask, prompt, new]``.
    """
    n_layers, n_new = shape.n_layers, answers.shape[-1]
    n_prompts, width = prompts.segments.shape
    readout = torch.zeros_like(prompts.segments, dtype=torch.bool)
    readout[:, -1] = True
    _, n_kept = _rows_and_keys(masks[0], prompts.segments, readout)
    flops = 0.0
    for step in range(1, n_new):
        for layer in range(n_layers):
            n_masked = sum(mask.layers.start <= layer for mask in masks)
            flops += layer_flops(shape, n_prompts * n_masked, n_kept + step)
            clean = answers[n_masked:, :, :step]
            n_texts = sum(len(torch.unique(clean[:, i], dim=0)) for i in range(n_prompts))
            flops += layer_flops(shape, n_texts, width + step)
    return _passes(shape, prompts.segments, readout, masks), flops


def _passes(
    shape: Shape, segments: Tensor, readout: Tensor, masks: Iterable[icl.ContextMask]
) -> float:
    n_prompts, n_tokens = segments.shape
    flops = clean_flops(shape, n_prompts, n_tokens)
    for mask in masks:
        n_layers = shape.n_layers - mask.layers.start
        flops += n_prompts * n_layers * layer_flops(shape, *_rows_and_keys(mask, segments, readout))
    return flops


def _rows_and_keys(mask: icl.ContextMask, segments: Tensor, readout: Tensor) -> tuple[int, int]:
    """How many rows of a masked run are its own, and how many keys they see; prompts are alike.

    Rows in front of the first hidden key are the clean run's; hidden ones reach nothing.
    """
    hidden = torch.isin(segments[0], torch.tensor([int(segment) for segment in mask.hide]))
    behind = hidden.cumsum(dim=0) > 0
    own = (behind & ~hidden) | readout[0]
    return int(own.sum()), int((own | ~behind).sum())
