"""Reading states at chosen positions, in chunks that fit memory."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.checks.arguments import show
from icl_locate.checks.signatures import anything, checked, one_of
from icl_locate.engine.budget import default_budget, run_in_chunks
from icl_locate.engine.decoding import Answers, check_room, decode_batch
from icl_locate.engine.forward import keep_logits, masked, require_numbers
from icl_locate.engine.scoring import append_tokens
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks.heads import watch
from icl_locate.hooks.points import HOOKS, check_point
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.edits import POINTS, Point
from icl_locate.interventions.places import Places, as_places, chosen_positions, numbered
from icl_locate.interventions.states import require_batch
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.tokens import Prompts, check_prompts

_NORMED = "ln_final.hook_out"


@checked(MaskError, at=anything, point=one_of(*POINTS))
def states(
    model: Model,
    prompts: Prompts,
    at: Any = "last",
    *,
    point: Point | str = "resid_post",
    intervention: Intervention | None = None,
    max_new_tokens: int = 50,
    batch_size: int = 32,
    token_budget: int | None = None,
) -> Float[Tensor, "layer batch pos *width"]:
    """The states that pass a point of every layer, at chosen positions of prompts.

    They are those of one pass of the whole prompts, bit by bit; of a model in half precision, as
    float32. Nothing but the chosen positions is kept.

    Args:
        at: "last" (each prompt's last token), "all", a `Segment` or its name, an `At`, or a list
            of these, all of which are meant; "generated": the tokens that the model generates
            greedily behind each prompt, which are generated only if they are named; or a mask of
            booleans (batch, pos) that is True at the positions.
        point: "resid_pre" or "resid_post", the residual stream before or after each block;
            "attn_out" or "mlp_out", what its attention or its MLP adds to it; "z", the outputs of
            its heads before the output projection.
        intervention: what acts on the model meanwhile; states are read behind its own edits.
        max_new_tokens: how many tokens are generated, less where a text ends before.
        batch_size: prompts that run at once, at most.
        token_budget: tokens in flight at once; ``None`` derives it from free memory.

    Returns:
        On the CPU; ``[layer, batch, pos, d_model]``, at the point "z" ``[layer, batch, pos, head,
        d_head]``. Positions are in the order of the text; where a prompt has fewer than others,
        NaN stands behind its last.

    Raises:
        MaskError: positions that a prompt lacks; an intervention that does not fit.
        ModelError: if the model has no such point, or edits have no effect there.
        PromptError: if the prompts do not fit the model, or the budget not one prompt.
        NumericalError: if the model gives NaN.
    """
    places = _as_places(at, prompts)
    n_new = max_new_tokens if _generates(places) else 0
    check_point(model, cast(Point, point))
    check_prompts(model, prompts)
    if n_new:
        check_room(model, prompts, n_new)
    if intervention is not None:
        require_batch(intervention, len(prompts))
    n_most = int(_chosen(places, prompts, range(len(prompts))).sum(dim=1).max()) + n_new
    kept = _Kept(int(model.cfg.n_layers), len(prompts), n_most)
    watched = [(HOOKS[cast(Point, point)], range(int(model.cfg.n_layers)), 0)]
    read = partial(_read, model, prompts, intervention, places, watched, n_new, kept)
    _run(model, prompts, prompts.tokens.shape[1] + n_new, batch_size, token_budget, read)
    return kept.states()


def stream_states(
    model: Model,
    prompts: Prompts,
    at: Bool[Tensor, "batch pos"],
    *,
    final_norm: bool = False,
    batch_size: int = 32,
    token_budget: int | None = None,
) -> Float[Tensor, "layer batch place d_model"]:
    """The residual stream at positions of prompts, before and behind every block, in one pass.

    Args:
        at: True at the positions.
        final_norm: whether the last of the states is what the final norm makes of it, as in the
            hidden states that Hugging Face's models give.

    Returns:
        ``n_layers + 1`` of them: 0 is what enters the first block, ``l`` what leaves block
        ``l - 1``; else as of `states`.

    Raises:
        ModelError: if the model lets nothing be read there.
        MaskError, PromptError, NumericalError: as `states` does.
    """
    _check_mask(at, prompts)
    for point in ("resid_pre", "resid_post"):
        check_point(model, point)
    check_prompts(model, prompts)
    n_layers = int(model.cfg.n_layers)
    watched = [
        (HOOKS["resid_pre"], range(1), 0),
        (HOOKS["resid_post"], range(n_layers - final_norm), 1),
    ]
    if final_norm:
        if _NORMED not in model.hook_dict:
            raise ModelError(f"this {model.cfg.architecture} has no final norm to be watched")
        watched.append((_NORMED, range(n_layers - 1, n_layers), 1))
    kept = _Kept(n_layers + 1, len(prompts), int(at.sum(dim=1).max()))
    read = partial(_read, model, prompts, None, at, watched, 0, kept)
    _run(model, prompts, prompts.tokens.shape[1], batch_size, token_budget, read)
    return kept.states()


def _run(
    model: Model,
    prompts: Prompts,
    cost: int,
    batch_size: int,
    token_budget: int | None,
    read: Callable[[range], None],
) -> None:
    """Read all prompts, each of which costs so many tokens, in chunks that fit."""
    with hold_weights(model):
        budget = default_budget(model, prompts, cost) if token_budget is None else token_budget
        run_in_chunks(len(prompts), cost, budget, batch_size, read)


def _as_places(at: Any, prompts: Prompts) -> Places | Tensor:
    """The positions as they were named, or a mask of them.

    Raises:
        MaskError: if there are none, or they are no positions of these prompts.
    """
    if isinstance(at, Tensor):
        _check_mask(at, prompts)
        return at
    places = as_places(at)
    if not places:
        raise MaskError(f"at is {show(at)}, which names no positions: name some, such as 'last'")
    return places


def _generates(places: Places | Tensor) -> bool:
    """Whether tokens that are yet to be generated are named."""
    if isinstance(places, Tensor):
        return False
    return any(place.segment is Segment.GENERATED for place in places)


def _check_mask(at: Tensor, prompts: Prompts) -> None:
    """Refuse a mask that is none of positions of these prompts."""
    shape = tuple(prompts.attention_mask.shape)
    if at.dtype != torch.bool or tuple(at.shape) != shape:
        raise MaskError(
            f"at is a tensor of {at.dtype} and shape {tuple(at.shape)}: expected booleans (batch, "
            f"pos) = {shape}, True at the positions that are read"
        )
    if (at.cpu() & ~prompts.attention_mask).any():
        raise MaskError("at is True at padding: expected positions of real tokens alone")
    if not at.any():
        raise MaskError("at is True nowhere, so that it names no positions: name some")


def _chosen(places: Places | Tensor, prompts: Prompts, items: range) -> Bool[Tensor, "batch pos"]:
    """The positions that are read of these items' prompts, which may have less padding."""
    if isinstance(places, Tensor):
        return places.cpu()[items.start : items.stop, -prompts.tokens.shape[1] :]
    return chosen_positions(places, prompts)


class _Kept:
    """The states that were read so far, NaN where there are none."""

    def __init__(self, n_layers: int, n_prompts: int, n_positions: int) -> None:
        self._shape = n_layers, n_prompts, n_positions
        self._states: Tensor | None = None
        self._n_most = 0

    def add(
        self,
        items: range,
        positions: Int[Tensor, "batch pos"],
        valid: Bool[Tensor, "batch pos"],
        behind: int,
        layer: int,
        value: Tensor,
    ) -> None:
        """Keep the chosen positions of some prompts, at one layer or so many behind it."""
        rows = torch.arange(len(positions), device=value.device)[:, None]
        chosen = value[rows, positions.to(value.device)].detach().cpu()
        if chosen.dtype in (torch.float16, torch.bfloat16):
            chosen = chosen.float()
        absent = ~valid.reshape(*valid.shape, *[1] * (chosen.ndim - 2))
        chosen = require_numbers(chosen.masked_fill(absent, 0.0)).masked_fill(absent, torch.nan)
        if self._states is None:
            self._states = chosen.new_full((*self._shape, *chosen.shape[2:]), torch.nan)
        self._states[layer + behind, items.start : items.stop, : chosen.shape[1]] = chosen
        self._n_most = max(self._n_most, chosen.shape[1])

    def states(self) -> Float[Tensor, "layer batch pos *width"]:
        """All of them, without positions that no prompt has."""
        found = torch.zeros(*self._shape, 0) if self._states is None else self._states
        return found[:, :, : self._n_most]


@torch.no_grad()
def _read(
    model: Model,
    prompts: Prompts,
    intervention: Intervention | None,
    places: Places | Tensor,
    watched: Sequence[tuple[str, Sequence[int], int]],
    n_new: int,
    kept: _Kept,
    items: range,
) -> None:
    """Read the states of the next prompts: generated tokens are run once more, behind theirs.

    Args:
        watched: a point, its layers, and how far behind the layer its states are kept.
    """
    batch = prompts.take(items)
    acting = None if intervention is None else intervention.take(items)
    if n_new:
        growing = Answers(model, len(batch), (), as_text=False)
        with masked(model, batch, acting):
            decode_batch(model, batch, None, growing, n_new)
        batch = append_tokens(batch, growing.tokens)
    chosen = _chosen(places, batch, items)
    n_each = chosen.sum(dim=1, keepdim=True)
    valid = torch.arange(int(n_each.max())) < n_each
    positions = torch.zeros(valid.shape, dtype=torch.long)
    prompt, position = chosen.nonzero(as_tuple=True)
    positions[prompt, numbered(chosen)[prompt, position]] = position
    device = model.cfg.device
    with masked(model, batch, acting), ExitStack() as watching:
        for name, layers, behind in watched:
            keep = partial(kept.add, items, positions, valid, behind)
            watching.enter_context(watch(model, name, keep, layers))
        model(
            batch.tokens.to(device),
            attention_mask=batch.attention_mask.long().to(device),
            **keep_logits(model, 1),
        )
