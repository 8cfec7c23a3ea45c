"""Floating-point operations that no exact way can do without, counted from shapes and texts."""

from collections.abc import Sequence

import torch
from random_llama import Shape
from torch import Tensor

import icl_locate as icl
from icl_locate import Segment
from icl_locate.engine.shared.streams import Stream, plan_streams


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
    segments = torch.nn.functional.pad(prompts.segments, (0, width), value=int(Segment.GENERATED))
    readout = torch.roll(segments == Segment.GENERATED, -1, dims=1)
    streams, _ = plan_streams(masks, segments, readout, shape.n_layers, shape.n_heads, drop=True)
    return _passes(shape, streams, *segments.shape)


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
    streams, _ = plan_streams(masks, prompts.segments, readout, n_layers, shape.n_heads, drop=True)
    (stream,) = streams
    n_kept = stream.keys().positions.shape[1]
    flops = 0.0
    for step in range(1, n_new):
        for layer in range(n_layers):
            n_masked = stream.n_running(layer)
            flops += layer_flops(shape, n_prompts * n_masked, n_kept + step)
            clean = answers[n_masked:, :, :step]
            n_texts = sum(len(torch.unique(clean[:, i], dim=0)) for i in range(n_prompts))
            flops += layer_flops(shape, n_texts, width + step)
    return _passes(shape, streams, n_prompts, width), flops


def _passes(shape: Shape, streams: Sequence[Stream], n_prompts: int, n_tokens: int) -> float:
    flops = clean_flops(shape, n_prompts, n_tokens)
    for stream in streams:
        n_rows, n_keys = stream.active.positions.shape[1], stream.keys().positions.shape[1]
        n_layers = sum(shape.n_layers - start for start in stream.starts)
        flops += n_prompts * n_layers * layer_flops(shape, n_rows, n_keys)
    return flops
