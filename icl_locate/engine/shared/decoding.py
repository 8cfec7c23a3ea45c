"""Generation by the shared engine: one prefill for all runs, which then decode as one batch.

A cell is one run of one prompt; cells are numbered run by run, and a run's by prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from icl_locate.engine.decoding import Answers, check_room, resolve_stops
from icl_locate.engine.forward import keep_logits, require_numbers
from icl_locate.engine.progress import Tell, part, silent
from icl_locate.engine.shared.beginning import begin_texts
from icl_locate.engine.shared.plan import Plan
from icl_locate.engine.shared.replay import BlockCall, replaced_blocks, with_first
from icl_locate.engine.shared.rows import Rows
from icl_locate.engine.shared.scoring import plan_last, read_out
from icl_locate.engine.shared.shared_pass import SharedPass
from icl_locate.engine.shared.texts import Cells, LayerTexts
from icl_locate.interventions.base import Intervention
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

_PREFILL = 0.3  # a guess at its share of the work, for progress bars


def generate_many(
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    max_new_tokens: int = 50,
    stop: str | Sequence[str] | None = None,
    *,
    drop: bool = True,
    tell: Tell = silent,
) -> list[list[str]]:
    """Greedy answers to each prompt under each intervention: one prefill, one decoding batch.

    Args:
        runs, drop: as `score_many` says.
        tell: told how much of the work is done.

    Returns:
        ``answers[run][prompt]``, equal to those of `generate` with each intervention.

    Raises:
        PromptError: as `generate` does.
        NotSharedError: if the model's blocks cannot be run on other rows.
        NumericalError: if the model gives NaN.
    """
    stops = resolve_stops(prompts, stop)
    check_room(model, prompts, max_new_tokens)
    plan, last = plan_last(model, prompts, runs, drop=drop, continues=True)
    found: dict[int, list[str]] = {}
    some = portions(plan, max_new_tokens, int(model.cfg.d_model), drop=drop)
    for i, portion in enumerate(some):
        share = part(tell, i / len(some), (i + 1) / len(some))
        texts = _generate(model, prompts, portion, last, max_new_tokens, stops, share, drop=drop)
        found |= dict(zip([*portion.runs, plan.n_runs], texts, strict=True))
    return [found[plan.n_runs if place is None else place] for place in plan.places]


@dataclass(frozen=True)
class Portion:
    """Runs that decode together.

    Attributes:
        runs: their numbers in the plan of all.
        plan: theirs alone.
        by_prompt: whether a prompt's texts share a row of the batch; else each has one.
    """

    runs: tuple[int, ...]
    plan: Plan
    by_prompt: bool


def portions(plan: Plan, n_new: int, d_model: int, *, drop: bool) -> list[Portion]:
    """Runs in portions whose keys together keep attention cheaper than the rest of a layer.

    Runs that compute most of a prompt's keys themselves have nothing to gain from the others', and
    decode in rows of their own.
    """
    width, limit = plan.positions.segments.shape[1], 4 * d_model
    rows = plan.most_rows()
    alone = [run for run, n in enumerate(rows) if not drop or 2 * n > width]
    shared: list[list[int]] = [[]]
    n_keys = width
    for run, n in enumerate(rows):
        if run in alone:
            continue
        if shared[-1] and n_keys + n + n_new > limit:
            shared.append([])
            n_keys = width
        shared[-1].append(run)
        n_keys += n + n_new
    found = [Portion(tuple(some), plan.only(some), by_prompt=True) for some in shared if some]
    if alone or not found:
        found.append(Portion(tuple(alone), plan.only(alone), by_prompt=False))
    return found


@torch.no_grad()
def _generate(
    model: Model,
    prompts: Prompts,
    portion: Portion,
    last: Rows,
    max_new_tokens: int,
    stops: Sequence[str],
    tell: Tell,
    *,
    drop: bool,
) -> list[list[str]]:
    """The answers of a portion's runs, and of the clean run behind them."""
    plan, n_prompts, n_heads = portion.plan, len(prompts), int(model.cfg.n_heads)
    prefill, decoding = part(tell, 0.0, _PREFILL), part(tell, _PREFILL, 1.0)
    shared = SharedPass(plan, last, n_heads, keeps_caches=True, beside=drop, tell=prefill)
    cache = _prefill(model, prompts, shared)
    layers = [
        begin_texts(
            layer,
            cache,
            shared.own[layer],
            plan,
            n_heads,
            max_new_tokens,
            by_prompt=portion.by_prompt,
        )
        for layer in range(int(model.cfg.n_layers))
    ]
    logits = read_out(model, shared.readout)
    answers = Answers(model, len(logits), stops, as_text=prompts.as_text)
    _decode(model, prompts, shared, layers, logits, answers, max_new_tokens, decoding)
    found = answers.texts()
    return [found[i : i + n_prompts] for i in range(0, len(found), n_prompts)]


def _prefill(model: Model, prompts: Prompts, shared: SharedPass) -> DynamicCache:
    """Run the prompts once, and all other runs' rows with them; returns the clean run's cache."""
    cache = DynamicCache()
    with replaced_blocks(model, shared):
        model(
            prompts.tokens.to(model.cfg.device),
            attention_mask=prompts.attention_mask.long().to(model.cfg.device),
            past_key_values=cache,
            use_cache=True,
            **keep_logits(model, 1),
        )
    return cache


def _decode(
    model: Model,
    prompts: Prompts,
    shared: SharedPass,
    layers: Sequence[LayerTexts],
    logits: Float[Tensor, "cell one d_vocab"],
    answers: Answers,
    max_new_tokens: int,
    tell: Tell,
) -> None:
    """Let all cells write, token by token, as one batch of those that are not done."""
    device, (n_prompts, width) = model.cfg.device, prompts.tokens.shape
    attention_mask = prompts.attention_mask.long().to(device)
    n_texts = len(logits)
    alive = torch.arange(n_texts, device=device)
    cells = Cells(alive // n_prompts, alive % n_prompts, alive % n_prompts, alive[:, None][:, :0])
    for n_generated in range(1, max_new_tokens + 1):
        step = require_numbers(logits[:, -1]).argmax(dim=-1)
        done = answers.extend(step, alive.tolist()).to(device)
        stays = ~done[alive]
        tell(max(1 - int(stays.sum()) / n_texts, n_generated / max_new_tokens))
        if n_generated == max_new_tokens or not stays.any():
            break
        alive, cells = alive[stays], cells.keep(stays, step)
        for texts in layers:
            texts.keep(stays, cells)
        seen = torch.nn.functional.pad(attention_mask[cells.prompts], (0, n_generated), value=1)
        length = width + n_generated - 1
        with replaced_blocks(model, partial(_step, shared, layers, cells)):
            logits = model(
                step[stays][:, None],
                attention_mask=seen,
                past_key_values=_length_only(len(alive), length, len(layers), device),
                use_cache=True,
            )


def _step(shared: SharedPass, layers: Sequence[LayerTexts], cells: Cells, call: BlockCall) -> Any:
    """One block's newest rows, over each cell's own keys."""
    found = layers[call.layer](call)
    if call.layer == len(layers) - 1:
        last = shared.plan.entering(len(layers))
        found = cells.edited(last, shared.plan, found[:, 0])[:, None]
    return with_first(shared.readout, found)


def _length_only(
    n_cells: int, length: int, n_layers: int, device: torch.device | str
) -> DynamicCache:
    """A cache with a length and nothing else: a model derives its masks and positions from it."""
    cache = DynamicCache()
    nothing = torch.zeros(1, 1, length, 1, device=device).expand(n_cells, 1, length, 1)
    for layer in range(n_layers):
        cache.update(nothing, nothing, layer)
    return cache
