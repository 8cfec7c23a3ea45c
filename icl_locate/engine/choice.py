"""Which engine runs: the shared one wherever it is exact, tried once a model."""

import warnings
import weakref
from collections.abc import Sequence
from typing import Literal

import torch
from transformer_lens.hook_points import HookPoint

from icl_locate._types import Segment
from icl_locate.engine.scoring import score_targets
from icl_locate.engine.shared.scoring import can_drop, score_many
from icl_locate.engine.shared.streams import NotSharedError
from icl_locate.errors import ModelError
from icl_locate.hooks import find_route, hold
from icl_locate.hooks.context import hides_cells
from icl_locate.hooks.positions import drops_rows
from icl_locate.hooks.probe import probe_prompts
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.layers import from_layer
from icl_locate.interventions.masks import ContextMask
from icl_locate.models.bridge import Model
from icl_locate.models.loading import check_model

Engine = Literal["auto", "shared", "hooks"]
ENGINES: tuple[str, ...] = ("auto", "shared", "hooks")

_disagreement: "weakref.WeakKeyDictionary[Model, str]" = weakref.WeakKeyDictionary()


def choose_engine(
    model: Model, engine: Engine | str, runs: Sequence[Intervention] = ()
) -> Literal["shared", "hooks"]:
    """The engine that runs: "auto" is "shared" wherever that is exact on this model.

    Args:
        runs: what is to run; the shared engine takes context masks alone.

    Raises:
        ModelError: if "shared" was asked for and is not exact here; the message says why.
    """
    check_model(model)
    if engine == "hooks":
        return "hooks"
    other = other_than_masks(runs)
    if other is not None and engine == "auto":
        return "hooks"
    why_not = other if other is not None else why_not_shared(model)
    if not why_not:
        return "shared"
    if engine == "shared":
        raise ModelError(f"the shared engine cannot run here: {why_not}; use engine='hooks'")
    warnings.warn(f"falling back to the hooks engine: {why_not}", stacklevel=2)
    return "hooks"


def other_than_masks(runs: Sequence[Intervention]) -> str | None:
    """Why some runs are none for the shared engine: the first kind that is no context mask."""
    for part in (part for run in runs for part in run.parts):
        if not (isinstance(part, ContextMask) and hides_cells(part)):
            return f"it runs context masks, but a run holds a {type(part).__name__}"
    return None


def why_not_shared(model: Model) -> str:
    """Why the shared engine is not exact on a model now; empty if it is.

    On a model's first use its numbers are compared with the hooks engine's on a few random tokens.
    """
    with hold(model):
        find_route(model)
        return _why_not_shared(model)


def _why_not_shared(model: Model) -> str:
    if len({parameter.device for parameter in model.original_model.parameters()}) > 1:
        return "the model is spread over several devices"
    if drops_rows(model):
        return "a drop_context is open around it"
    if any(_foreign_hooks(point) for point in model.hook_dict.values()):
        return "the model holds hooks of yours, which see only the hooks engine's runs"
    if model not in _disagreement:
        _disagreement[model] = _compare(model)
    return _disagreement[model]


def _foreign_hooks(point: HookPoint) -> bool:
    """Whether a hook point holds hooks that TransformerLens did not put there itself (on OPT)."""
    hooks = [getattr(handle, "user_hook", None) for handle in (*point.fwd_hooks, *point.bwd_hooks)]
    return any(
        not str(getattr(hook, "__module__", "")).startswith("transformer_lens.") for hook in hooks
    )


def _compare(model: Model) -> str:
    prompts = probe_prompts(model)
    masks = [
        ContextMask(hide, from_layer(start))
        for hide in ({Segment.EXAMPLES}, {Segment.QUERY})
        for start in range(int(model.cfg.n_layers) + 1)
    ]
    try:
        ours = score_many(model, prompts, masks, drop=can_drop(model))
    except (NotSharedError, ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
        return f"this {model.cfg.architecture} does not take it ({error})"
    theirs = torch.stack([score_targets(model, prompts, mask) for mask in masks])
    exact = {torch.float32: 1e-4, torch.float64: 1e-6}
    tolerance = exact.get(next(model.original_model.parameters()).dtype, 0.1)
    difference = (ours - theirs).abs().max().item()
    if difference <= tolerance * max(1.0, theirs.abs().max().item()):
        return ""
    return f"on this {model.cfg.architecture} it differs from the hooks engine by {difference:.1e}"
