"""Masks on a model: as hooks to hand over, and as the context that `intervene` enters."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from icl_locate.checks.signatures import checked
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks.cells import CellTracker
from icl_locate.hooks.holding import NamedHook, owned
from icl_locate.hooks.padding import PaddingCheck
from icl_locate.hooks.positions import RowCount
from icl_locate.hooks.probe import Route, apply_route, find_route
from icl_locate.hooks.registry import application_of
from icl_locate.hooks.routes import ScoresEdit
from icl_locate.hooks.site import Site
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.masks import (
    ContextMask,
    EdgeMask,
    Mask,
    MaskUnion,
    check_segments,
    parts_of,
    resolve,
)
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts


@checked(MaskError)
def attention_hooks(model: Model, prompts: Prompts, mask: Mask) -> list[NamedHook]:
    """The mask as (hook name, function) pairs on the model's attention scores and patterns.

    For ``model.run_with_hooks(prompts.tokens, attention_mask=prompts.attention_mask,
    fwd_hooks=...)`` and ``model.hooks(fwd_hooks=...)``; they hold through cached generation too.
    The functions keep count of positions: use a fresh list for each run that does not start with
    the whole prompt, and run it in the thread that made it. A run of padded prompts without their
    attention mask raises a MaskError.

    Raises:
        ModelError: on an architecture that discards such edits; use `mask_attention` there.
        MaskError: if the mask fits neither the model nor the prompts.
    """
    other = next((part for part in mask.parts if not hides_cells(part)), None)
    if other is not None:
        name = type(other).__name__
        raise MaskError(f"the mask holds a {name}, which its own application puts: use intervene")
    if find_route(model, per_head=_names_heads(mask)) is not Route.SCORES:
        raise ModelError(
            f"this {model.cfg.architecture} discards edits of hook_attn_scores: use "
            "icl_locate.mask_attention(model, prompts, mask), which edits its attention mask"
        )
    rows = RowCount(prompts.attention_mask, "a mask", model=model)
    tracker = _track(model, prompts, mask, rows)
    edits = [ScoresEdit(tracker, layer) for layer in tracker.layers]
    hooks = [*PaddingCheck(prompts).named_hooks(), *tracker.named_hooks()]
    return owned([*hooks, *(hook for edit in edits for hook in edit.named_hooks())])


def put_masks(
    site: Site, parts: Sequence[ContextMask | EdgeMask]
) -> AbstractContextManager[object]:
    """The context in which masks hide what any of them hides.

    Raises:
        ModelError: if this model's attention cannot be masked.
        MaskError: if a mask fits neither the model nor the prompts.
    """
    mask = parts[0] if len(parts) == 1 else MaskUnion(frozenset(parts))
    route = find_route(site.model, per_head=_names_heads(mask))
    if site.prompts is None:
        raise MaskError("masks act on segments: give the prompts that the model is run on")
    tracker = _track(site.model, site.prompts, mask, site.rows)
    return apply_route(site.model, tracker, route)


def hides_cells(part: Intervention) -> bool:
    """Whether a part is a mask, and put on a model as one: a kind of one's own may not be."""
    return isinstance(part, (ContextMask, EdgeMask)) and application_of(part) is put_masks


def _names_heads(mask: Mask) -> bool:
    return any(part.heads for part in parts_of(mask))


def _track(model: Model, prompts: Prompts, mask: Mask, rows: RowCount) -> CellTracker:
    check_segments(mask, prompts.segments)
    n_heads = int(model.cfg.n_heads)
    layers = resolve(mask, int(model.cfg.n_layers), n_heads)
    return CellTracker(Positions.of(prompts, model.cfg.device), layers, n_heads, rows)
