"""The attention of one row of each prompt: sums over some of its cells, and what counts as much."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.checks.reprs import short_repr
from icl_locate.engine.budget import default_budget, run_in_chunks
from icl_locate.engine.forward import keep_logits, masked, require_numbers
from icl_locate.hooks.heads import watch_attention
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.tokens import Prompts, check_prompts
from icl_locate.studies.attention import paid_to
from icl_locate.studies.kept import keep_tables

Watching = Callable[[range, int], AbstractContextManager[object]]
"""Takes the numbers of the prompts that run, and how many columns of padding they lack; gives what
holds while they run."""

THRESHOLD = 5.0
"""A head counts where it pays more than so many times what evenly spread attention would."""
N_DRAWS = 8
"""How often the cells of a control are drawn."""


@short_repr("rows")
@dataclass(frozen=True)
class Cells:
    """Cells of one row of each prompt, and which sums of them are asked for.

    Attributes:
        rows: the position whose attention it is.
        columns: the positions that it is paid to.
        weights: of each cell in each sum.
    """

    rows: Int[Tensor, "batch"]
    columns: Int[Tensor, "batch cell"]
    weights: Float[Tensor, "sum batch cell"]

    def even(self, prompts: Prompts) -> Float[Tensor, "sum batch"]:
        """The sums of attention that is spread evenly over all that the row sees."""
        seen = prompts.attention_mask.cumsum(dim=1).gather(1, self.rows[:, None])[:, 0]
        return self.weights.sum(dim=-1) / seen


def attention_sums(
    model: Model, prompts: Prompts, cells: Cells, batch_size: int, told: Callable[[int], object]
) -> Float[Tensor, "sum layer head batch"]:
    """The sums of every head's attention; nothing but they are kept.

    Args:
        told: of how many more prompts are done.

    Raises:
        NumericalError: if the model gives NaN.
        ModelError: if its attention cannot be watched.
    """

    def measure() -> dict[str, Tensor]:
        sums = empty_sums(model, cells)
        run_watched(model, prompts, partial(watch_sums, model, cells, sums), batch_size, told)
        require_numbers(sums.movedim(-1, 0))
        return {"sums": sums}

    return keep_tables(model, [prompts], {"measured": "attention", "cells": cells}, measure)["sums"]


def empty_sums(model: Model, cells: Cells) -> Float[Tensor, "sum layer head batch"]:
    """Where `watch_sums` keeps what it sees."""
    sizes = int(model.cfg.n_layers), int(model.cfg.n_heads), len(cells.rows)
    return torch.full((len(cells.weights), *sizes), torch.nan)


def watch_sums(
    model: Model, cells: Cells, kept: Tensor, items: range, skipped: int
) -> AbstractContextManager[None]:
    """Keep the sums of the prompts that run inside."""
    keep = partial(_keep_sums, cells, kept, items, skipped)
    return watch_attention(model, "hook_pattern", keep)


def tell_nobody(n_prompts: int) -> None:
    """For runs whose progress is not shown."""


@torch.no_grad()
def run_watched(
    model: Model,
    prompts: Prompts,
    watching: Watching,
    batch_size: int,
    told: Callable[[int], object] = tell_nobody,
) -> None:
    """Run prompts once, in batches that fit memory.

    Args:
        told: of how many more prompts are done.
    """
    check_prompts(model, prompts)
    cost = prompts.tokens.shape[1]
    with hold_weights(model):
        budget = default_budget(model, prompts, cost)
        run = partial(_run, model, prompts, watching, told)
        run_in_chunks(len(prompts), cost, budget, batch_size, run)


def random_columns(
    prompts: Prompts,
    rows: Int[Tensor, "batch"],
    measured: Int[Tensor, "batch taken"],
    n_draws: int,
    seed: int,
) -> Int[Tensor, "batch draw taken"]:
    """As many other tokens in front of each row as are measured, drawn without repetition.

    Never BOS, which takes the attention of heads that look for nothing, so that the draw would say
    less of chance than of BOS.
    """
    there = (prompts.segments != Segment.PAD) & (prompts.segments != Segment.BOS)
    there &= torch.arange(there.shape[1]) < rows[:, None]
    there.scatter_(1, measured, value=False)
    order = torch.zeros(len(there), n_draws, there.shape[1])
    for row, generator in enumerate(generators(prompts, seed)):
        real = prompts.attention_mask[row]
        order[row][:, real] = torch.rand(n_draws, int(real.sum()), generator=generator)
    return _first_of(order, there, measured.shape[1])


def generators(prompts: Prompts, seed: int) -> list[torch.Generator]:
    """A generator for each prompt, which its tokens and the seed alone decide.

    So what is drawn for a prompt is the same in whatever batch it stands, and however padded.
    """
    found = []
    for tokens, real in zip(prompts.tokens, prompts.attention_mask, strict=True):
        said = f"{seed}/{tokens[real].tolist()}"
        number = int.from_bytes(sha256(said.encode()).digest()[:7], "big")
        found.append(torch.Generator().manual_seed(number))
    return found


def thresholds(prompts: Prompts, n_classes: int = 1) -> Float[Tensor, "batch"]:
    """Above what the attention of a head counts: 5 / (tokens of the whole prompt * classes)."""
    return THRESHOLD / (prompts.attention_mask.sum(dim=1) * n_classes)


def _first_of(
    order: Float[Tensor, "batch draw pos"], there: Bool[Tensor, "batch pos"], n: int
) -> Int[Tensor, "batch draw taken"]:
    absent = ~there[:, None].expand_as(order)
    return order.masked_fill(absent, 2.0).argsort(dim=-1)[..., :n]


def _keep_sums(
    cells: Cells, kept: Tensor, items: range, skipped: int, layer: int, pattern: Tensor
) -> None:
    part, device = slice(items.start, items.stop), pattern.device
    columns = (cells.columns[part] - skipped).to(device)
    rows = (cells.rows[part, None] - skipped).to(device).expand_as(columns)
    paid = paid_to(pattern, rows, columns).float()
    sums = torch.einsum("bhc,sbc->shb", paid, cells.weights[:, part].to(device))
    kept[:, layer, :, part] = sums.cpu()


def _run(
    model: Model,
    prompts: Prompts,
    watching: Watching,
    told: Callable[[int], object],
    items: range,
) -> None:
    batch, device = prompts.take(items), model.cfg.device
    skipped = prompts.tokens.shape[1] - batch.tokens.shape[1]
    with masked(model, batch, None), watching(items, skipped):
        model(
            batch.tokens.to(device),
            attention_mask=batch.attention_mask.long().to(device),
            **keep_logits(model, 1),
        )
    told(len(items))
