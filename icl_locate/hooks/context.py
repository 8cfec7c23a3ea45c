"""A mask on a model: as hooks to hand over, or as a context that holds through generation."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformer_lens.model_bridge import TransformerBridge

from icl_locate.checks.signatures import checked
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks.cells import CellTracker, NamedHook
from icl_locate.hooks.holding import hold, owned
from icl_locate.hooks.padding import PaddingCheck, runs_of
from icl_locate.hooks.probe import Route, apply_route, find_route
from icl_locate.hooks.routes import ScoresEdit
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.masks import Mask, check_segments, parts_of, resolve
from icl_locate.prompts.tokens import Prompts


@checked(MaskError)
def attention_hooks(model: TransformerBridge, prompts: Prompts, mask: Mask) -> list[NamedHook]:
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
    if find_route(model, per_head=_names_heads(mask)) is not Route.SCORES:
        raise ModelError(
            f"this {model.cfg.architecture} discards edits of hook_attn_scores: use "
            "icl_locate.mask_attention(model, prompts, mask), which edits its attention mask"
        )
    tracker = _track(model, prompts, mask)
    edits = [ScoresEdit(tracker, layer) for layer in tracker.layers]
    hooks = [*PaddingCheck(prompts).named_hooks(), *tracker.named_hooks()]
    return owned([*hooks, *(hook for edit in edits for hook in edit.named_hooks())])


@checked(MaskError)
@contextmanager
def mask_attention(
    model: TransformerBridge, prompts: Prompts, mask: Mask
) -> Iterator[TransformerBridge]:
    """Mask the model's attention, by the route that works on its architecture, inside a ``with``.

    Everything that runs inside must run on ``prompts.tokens`` with ``prompts.attention_mask`` (a
    run of padded prompts without it raises a MaskError): a forward pass, or generation with or
    without a cache. Contexts nest: the union is hidden. Other threads that use this model wait
    until the end. The model is restored then, after an exception too.

    Raises:
        ModelError: if this model's attention cannot be masked.
        MaskError: if the mask fits neither the model nor the prompts.
    """
    with hold(model):
        route = find_route(model, per_head=_names_heads(mask))
        tracker = _track(model, prompts, mask)
        with hold(model, runs_of(prompts)), apply_route(model, tracker, route):
            yield model


def _names_heads(mask: Mask) -> bool:
    return any(part.heads for part in parts_of(mask))


def _track(model: TransformerBridge, prompts: Prompts, mask: Mask) -> CellTracker:
    check_segments(mask, prompts.segments)
    n_heads = int(model.cfg.n_heads)
    layers = resolve(mask, int(model.cfg.n_layers), n_heads)
    device = model.cfg.device
    positions = Positions(
        prompts.segments.to(device), prompts.tokens.to(device), prompts.words.to(device)
    )
    return CellTracker(positions, layers, n_heads)
