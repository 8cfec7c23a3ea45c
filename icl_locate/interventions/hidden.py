"""The keys, rows and cells that masks hide, as tensors."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int8
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.masks import ContextMask, EdgeMask, LayerMask


def extend_segments(
    segments: Int8[Tensor, "batch pos"], total: int
) -> Int8[Tensor, "batch key_pos"]:
    """The segments of ``total`` positions: the prompt's, then GENERATED."""
    return torch.nn.functional.pad(
        segments, (0, total - segments.shape[1]), value=int(Segment.GENERATED)
    )


def hidden_keys(
    mask: ContextMask, segments: Int8[Tensor, "batch key_pos"]
) -> Bool[Tensor, "batch key_pos"]:
    """The keys that the mask hides."""
    hide = torch.zeros(len(Segment), dtype=torch.bool, device=segments.device)
    hide[[int(segment) for segment in mask.hide]] = True
    hidden = hide[segments.long()]
    if mask.hide_generated:
        generated = segments == Segment.GENERATED
        hidden |= generated & (generated.cumsum(dim=1) <= mask.hide_generated)
    return hidden


def masked_rows(
    mask: ContextMask, segments: Int8[Tensor, "batch key_pos"]
) -> Bool[Tensor, "batch query_pos"]:
    """The query rows that the mask acts on; padding is never one of them."""
    real = segments != Segment.PAD
    if mask.rows == "all":
        return real
    hidden = hidden_keys(mask, segments) & (segments != Segment.GENERATED)
    behind_it = hidden.flip(-1).cumsum(-1).flip(-1)  # hidden keys at this position or later
    return real & (behind_it == 0)


def hidden_cells(
    mask: ContextMask, segments: Int8[Tensor, "batch key_pos"], n_rows: int
) -> Bool[Tensor, "batch query_pos key_pos"]:
    """The cells (row, key) that the mask hides, for the last ``n_rows`` rows.

    Only causally possible cells are named: a key behind its row stays as the model left it.
    """
    total = segments.shape[1]
    keys = hidden_keys(mask, segments)
    rows = masked_rows(mask, segments)[:, total - n_rows :]
    positions = torch.arange(total, device=segments.device)
    past = positions <= positions[total - n_rows :, None]
    if mask.keep_self:
        past &= positions != positions[total - n_rows :, None]
    return rows[:, :, None] & keys[:, None, :] & past


def hidden_by_head(
    masks: Sequence[LayerMask], positions: Positions, n_rows: int, n_heads: int
) -> Bool[Tensor, "batch #head query_pos key_pos"]:
    """The cells that any of a layer's masks hides; one head stands for all where all are alike."""
    segments = positions.segments
    everywhere = all(mask.heads is None for mask in masks)
    shape = segments.shape[0], 1 if everywhere else n_heads, n_rows, segments.shape[1]
    hidden = torch.zeros(shape, dtype=torch.bool, device=segments.device)
    for acting in masks:
        heads = slice(None) if acting.heads is None else list(acting.heads)
        if isinstance(acting.mask, EdgeMask):
            cells = acting.mask.cells(positions, n_rows)
        else:
            cells = hidden_cells(acting.mask, segments, n_rows)
        hidden[:, heads] |= cells[:, None]
    return hidden
