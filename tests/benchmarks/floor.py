"""Floating-point operations that no exact way can do without, counted from shapes and texts."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool
from patches import Patch
from random_llama import Shape, with_generated
from torch import Tensor

import icl_locate as icl
from icl_locate import Segment
from icl_locate.induction.arms import Arm


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
    flops = clean_flops(shape, n_prompts, n_tokens)
    for patch in patches:
        n_rows = n_prompts * (1 if patch.last else n_tokens)
        n_top, n_heads = min(n_rows, n_prompts * n_read), int(patch.head is not None)
        flops += _run_flops(shape, patch.layer, n_heads, (n_rows, n_rows, n_top), n_tokens)
    return flops


def study_flops(shape: Shape, arms: Iterable[Arm], touched: Bool[Tensor, "prompt pos"]) -> float:
    """One clean pass, one for the reference, and each arm from its lowest heads on.

    Args:
        touched: the rows that a knockout touches; what ablates heads touches all.
    """
    n_prompts, n_tokens = touched.shape
    flops = 2 * clean_flops(shape, n_prompts, n_tokens)
    for arm in arms:
        if not arm.heads:
            continue
        layer = min(layer for layer, _ in arm.heads)
        n_heads = sum(other == layer for other, _ in arm.heads)
        own = touched if arm.intervention == "knockout" else torch.ones_like(touched)
        rows = int(own.sum()), int((own.cumsum(dim=1) > 0).sum()), n_prompts
        flops += _run_flops(shape, layer, n_heads, rows, n_tokens)
    return flops


def _run_flops(
    shape: Shape, layer: int, n_heads: int, rows: tuple[int, int, int], n_tokens: int
) -> float:
    """A run above the clean one; rows: touched at its layer, differing above it, and read."""
    n_own, n_above, n_read = rows
    d, top = shape.d_model, shape.n_layers - 1
    flops = 0.0
    if n_heads:
        n_own = min(n_own, n_read) if layer == top else n_own
        flops += n_own * (n_heads * d * shape.d_head + 3 * d * shape.d_mlp)
    if layer < top:
        flops += (top - 1 - layer) * layer_flops(shape, n_above, n_tokens)
        flops += _top_flops(shape, n_above, n_read, n_tokens)
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
    flops, n_read = clean_flops(shape, n_prompts, n_tokens), int(readout[0].sum())
    for mask in masks:
        n_rows, n_keys = _rows_and_keys(mask, segments, readout)
        if mask.layers.start < shape.n_layers:
            n_below_top = shape.n_layers - 1 - mask.layers.start
            flops += n_prompts * n_below_top * layer_flops(shape, n_rows, n_keys)
            flops += n_prompts * _top_flops(shape, n_rows, n_read, n_keys)
    return flops


def _top_flops(shape: Shape, n_rows: int, n_read: int, n_keys: int) -> float:
    """At the last layer all rows are keys and values, and only those that are read are more."""
    keys_and_values = 2 * shape.d_model * shape.n_kv_heads * shape.d_head
    return layer_flops(shape, n_read, n_keys) + (n_rows - n_read) * keys_and_values


def _rows_and_keys(mask: icl.ContextMask, segments: Tensor, readout: Tensor) -> tuple[int, int]:
    """How many rows of a masked run are its own, and how many keys they see; prompts are alike.

    Rows in front of the first hidden key are the clean run's; hidden ones reach nothing.
    """
    hidden = torch.isin(segments[0], torch.tensor([int(segment) for segment in mask.hide]))
    behind = hidden.cumsum(dim=0) > 0
    own = (behind & ~hidden) | readout[0]
    return int(own.sum()), int((own | ~behind).sum())
