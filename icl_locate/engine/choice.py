"""Which engine runs: the shared one wherever it is exact, tried once a model."""

import warnings
import weakref
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from icl_locate._types import Segment
from icl_locate.engine.scoring import score_targets
from icl_locate.engine.shared.rows import NotSharedError
from icl_locate.engine.shared.scoring import can_drop, score_many
from icl_locate.errors import ModelError
from icl_locate.hooks import find_route, hold
from icl_locate.hooks.context import hides_cells
from icl_locate.hooks.edits import is_edit
from icl_locate.hooks.positions import drops_rows
from icl_locate.hooks.probe import probe_prompts
from icl_locate.interventions.ablation import HeadAblation
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.layers import from_layer
from icl_locate.interventions.masks import ContextMask, EdgeMask
from icl_locate.interventions.scale import HeadScale
from icl_locate.interventions.states import StateEdit
from icl_locate.models.bridge import Model
from icl_locate.models.loading import check_model
from icl_locate.models.memory import is_out_of_memory

Engine = Literal["auto", "shared", "hooks"]
ENGINES: tuple[str, ...] = ("auto", "shared", "hooks")
_MASKS = ContextMask.__name__

_disagreement: "weakref.WeakKeyDictionary[Model, dict[str, str]]" = weakref.WeakKeyDictionary()


def choose_engine(
    model: Model, engine: Engine | str, runs: Sequence[Intervention] = ()
) -> Literal["shared", "hooks"]:
    """The engine that runs: "auto" is "shared" wherever that is exact on this model.

    Args:
        runs: what is to run; the shared engine takes every kind of intervention of icl_locate's
            own. None given: context masks.

    Raises:
        ModelError: if "shared" was asked for and is not exact here; the message says why.
    """
    check_model(model)
    if engine == "hooks":
        return "hooks"
    other = kind_of_ones_own(runs)
    if other is not None and engine == "auto":
        return "hooks"
    why_not = other if other is not None else why_not_shared(model, runs)
    if not why_not:
        return "shared"
    if engine == "shared":
        raise ModelError(f"the shared engine cannot run here: {why_not}; use engine='hooks'")
    warnings.warn(f"falling back to the hooks engine: {why_not}", stacklevel=2)
    return "hooks"


def kind_of_ones_own(runs: Sequence[Intervention]) -> str | None:
    """Why some runs are none for the shared engine: the first kind that is not icl_locate's own."""
    for part in (part for run in runs for part in run.parts):
        if not (hides_cells(part) or is_edit(part)):
            return f"a run holds a {type(part).__name__}, whose rows only its own application knows"
    return None


def why_not_shared(model: Model, runs: Sequence[Intervention] = ()) -> str:
    """Why the shared engine is not exact on a model now; empty if it is.

    On a model's first use of a kind of intervention its numbers are compared with the hooks
    engine's on a few random tokens.
    """
    with hold(model):
        find_route(model)
        return _why_not_shared(model, runs)


def _why_not_shared(model: Model, runs: Sequence[Intervention]) -> str:
    if len({parameter.device for parameter in model.original_model.parameters()}) > 1:
        return "the model is spread over several devices"
    if drops_rows(model):
        return "a drop_context is open around it"
    if holds_hooks(model):
        return "the model holds hooks of yours, which see only the hooks engine's runs"
    known = _disagreement.setdefault(model, {})
    kinds = {kind: part for run in runs for part in run.parts for kind in [_kind(part)]}
    for kind, part in kinds.items() or [(_MASKS, None)]:
        if kind not in known:
            known[kind] = _compare(model, _trials(model, part))
        if known[kind]:
            return known[kind]
    return ""


def holds_hooks(model: Model) -> bool:
    """Whether the model holds hooks of its user's."""
    return any(_foreign_hooks(point) for point in model.hook_dict.values())


def _foreign_hooks(point: HookPoint) -> bool:
    """Whether a hook point holds hooks that TransformerLens did not put there itself (on OPT)."""
    hooks = [getattr(handle, "user_hook", None) for handle in (*point.fwd_hooks, *point.bwd_hooks)]
    return any(
        not str(getattr(hook, "__module__", "")).startswith("transformer_lens.") for hook in hooks
    )


def _kind(part: Intervention) -> str:
    """What is tried once for all interventions that act at the same places."""
    if isinstance(part, StateEdit):
        return f"StateEdit at {part.point}"
    kinds = (ContextMask, EdgeMask, HeadAblation, HeadScale)
    return next(kind.__name__ for kind in kinds if isinstance(part, kind))


def _trials(model: Model, part: Intervention | None) -> list[Intervention]:
    """Interventions of a part's kind at each layer, alone and together with a mask."""
    layers, masks = range(int(model.cfg.n_layers)), list[Intervention]()
    for hide in ({Segment.EXAMPLES}, {Segment.QUERY}):
        masks += [ContextMask(hide, from_layer(start)) for start in range(len(layers) + 1)]
    if part is None or isinstance(part, ContextMask):
        return masks
    alone = [_trial(part, layer) for layer in layers]
    return [*alone, *(one | masks[len(layers) // 2] for one in alone)]


def _trial(part: Intervention, layer: int) -> Intervention:
    if isinstance(part, StateEdit):
        head, at = None if part.head is None else 0, {Segment.QUERY}
        return StateEdit("scale", 0.5, layer, at, point=part.point, head=head, generated=True)
    if isinstance(part, EdgeMask):
        return EdgeMask(_every_third, from_layer(layer))
    return (
        HeadAblation({(layer, 0)})
        if isinstance(part, HeadAblation)
        else HeadScale({(layer, 0): 0.5})
    )


def _every_third(positions: Positions, n_rows: int) -> Tensor:
    """Edges to the token three places before."""
    total = positions.segments.shape[1]
    places = torch.arange(total, device=positions.segments.device)
    edges = places == places[total - n_rows :, None] - 3
    return edges.expand(len(positions.segments), -1, -1)


def _compare(model: Model, trials: Sequence[Intervention]) -> str:
    prompts = probe_prompts(model)
    try:
        ours = score_many(model, prompts, trials, drop=can_drop(model))
    except (NotSharedError, ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
        if is_out_of_memory(error):  # it says nothing of the model
            raise
        return f"this {model.cfg.architecture} does not take it ({error})"
    theirs = torch.stack([score_targets(model, prompts, one) for one in trials])
    exact = {torch.float32: 1e-4, torch.float64: 1e-6}
    tolerance = exact.get(next(model.original_model.parameters()).dtype, 0.1)
    difference = (ours - theirs).abs().max().item()
    if difference <= tolerance * max(1.0, theirs.abs().max().item()):
        return ""
    return f"on this {model.cfg.architecture} it differs from the hooks engine by {difference:.1e}"
