"""How the texts of a layer begin: with the keys that the prefill left of each run."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from icl_locate.engine.shared.layout import Keys
from icl_locate.engine.shared.plan import Plan
from icl_locate.engine.shared.replay import cache_with
from icl_locate.engine.shared.texts import LayerTexts


def begin_texts(
    layer: int,
    clean: DynamicCache,
    computed: Mapping[int, Keys],
    plan: Plan,
    n_heads: int,
    room: int,
    *,
    by_prompt: bool,
) -> LayerTexts:
    """A layer's cells as the prefill left them, each with an empty text.

    Args:
        computed: the keys and values that runs computed there, by their numbers.
        room: for how many new tokens of each text.
    """
    begin = beside if by_prompt else behind
    keys, values, columns, own, kinds = begin(layer, clean, computed, plan)
    n_prompts = len(plan.positions.segments)
    cells = torch.arange((plan.n_runs + 1) * n_prompts, device=columns.device)
    runs, prompts = cells // n_prompts, cells % n_prompts
    if by_prompt:
        rows, slots, room = prompts, runs, room * (plan.n_runs + 1)
    else:
        started = kinds > 0
        places = torch.where(started, started.cumsum(dim=0), 0)
        rows, slots = places[runs] * n_prompts + prompts, torch.zeros_like(cells)
    return LayerTexts(
        layer,
        cache_with(layer, keys, values, room),
        plan,
        n_heads,
        columns=columns,
        kinds=kinds[runs],
        rows=rows,
        slots=slots,
        own=own,
        by_prompt=by_prompt,
    )


_Begun = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Keys, values, columns, which keys are each text's own, and each run's kind."""


def _kinds(layer: int, plan: Plan) -> list[int]:
    """Each run's kind at a layer, that of the clean run last."""
    found = [0] * (plan.n_runs + 1)
    for kind, group in enumerate(plan.groups[layer], start=1):
        for run in group.runs:
            found[run] = kind
    return found


def beside(layer: int, clean: DynamicCache, computed: Mapping[int, Keys], plan: Plan) -> _Begun:
    """All runs' keys beside each other in their prompt's row."""
    base = clean.layers[layer]
    n_prompts, width, device = len(base.keys), base.keys.shape[2], base.keys.device
    keys, values = [base.keys], [base.values]
    blocks = [torch.arange(width, device=device).expand(n_prompts, -1)]
    kinds = _kinds(layer, plan)
    own = torch.zeros(n_prompts, len(kinds), width, dtype=torch.bool, device=device)
    more: list[tuple[int, Tensor]] = []
    for run, kind in enumerate(kinds):
        group = plan.groups[layer][kind - 1] if kind else None
        own[:, run] = group.static.chosen(width) if group is not None else True
        if group is not None and run in computed:
            keys.append(computed[run][0])
            values.append(computed[run][1])
            blocks.append(group.active.positions)
            more.append((run, group.active.valid))
    mine = [
        torch.zeros(n_prompts, len(kinds), v.shape[1], dtype=torch.bool, device=device)
        for _, v in more
    ]
    for (run, valid), some in zip(more, mine, strict=True):
        some[:, run] = valid
    return (
        torch.cat(keys, dim=2),
        torch.cat(values, dim=2),
        torch.cat(blocks, dim=1),
        torch.cat([own, *mine], dim=2),
        torch.tensor(kinds, device=device),
    )


def behind(layer: int, clean: DynamicCache, computed: Mapping[int, Keys], plan: Plan) -> _Begun:
    """A row for each run that has started, its keys in their places; all others share the clean."""
    base, kinds = clean.layers[layer], _kinds(layer, plan)
    n_prompts, width, device = len(base.keys), base.keys.shape[2], base.keys.device
    started = [run for run, kind in enumerate(kinds) if kind]
    keys, values = (torch.cat([some] * (1 + len(started))) for some in (base.keys, base.values))
    own = torch.ones(len(keys), width, dtype=torch.bool, device=device)
    for place, run in enumerate(started, start=1):
        group = plan.groups[layer][kinds[run] - 1]
        here = slice(place * n_prompts, (place + 1) * n_prompts)
        own[here] = group.static.chosen(width)
        if run in computed:
            own[here] |= group.active.chosen(width)
            prompts, kept = group.active.valid.nonzero(as_tuple=True)
            positions = group.active.positions[prompts, kept]
            for all_of, some in zip((keys, values), computed[run], strict=True):
                all_of[here][prompts, :, positions] = some[prompts, :, kept]
    columns = torch.arange(width, device=device).expand(len(keys), -1)
    return keys, values, columns, own[:, None], torch.tensor(kinds, device=device)
