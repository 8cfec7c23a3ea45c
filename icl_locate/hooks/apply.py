"""Interventions on a model, as contexts: of any kinds at once, or of one kind alone."""

import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks.context import put_masks
from icl_locate.hooks.edits import put_edits
from icl_locate.hooks.holding import hold
from icl_locate.hooks.padding import runs_of
from icl_locate.hooks.points import check_point
from icl_locate.hooks.positions import RowCount
from icl_locate.hooks.probe import find_route
from icl_locate.hooks.registry import APPLICATIONS, by_application, put_on
from icl_locate.hooks.site import Site
from icl_locate.interventions.ablation import HeadAblation, HeadReference, Method
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.layers import as_pairs
from icl_locate.interventions.masks import ContextMask, EdgeMask, Mask, MaskUnion, parts_of
from icl_locate.interventions.scale import HeadScale
from icl_locate.interventions.states import StateEdit
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

APPLICATIONS.update(
    {
        ContextMask: put_masks,
        EdgeMask: put_masks,
        HeadAblation: put_edits,
        HeadScale: put_edits,
        StateEdit: put_edits,
    }
)
_looked_at: "weakref.WeakSet[Model]" = weakref.WeakSet()


@checked(MaskError)
@contextmanager
def intervene(model: Model, prompts: Prompts, intervention: Intervention) -> Iterator[Model]:
    """Do something to a model inside a ``with``: any composition of interventions by ``|``.

    Context masks, edge masks, head ablations, head scales, state edits and kinds of your own
    (`register_intervention`). Their order does not matter, and twice is once: masks hide what any
    of them hides; ablations then replace heads' outputs; scales multiply what stands there, be it
    the head's own output or what replaced it; states are edited as `StateEdit` says. A head that
    two ablations replace by different values, or that has two different factors, is refused, and
    so is a state that two edits replace by different values.

    Everything that runs inside must run on ``prompts.tokens`` with ``prompts.attention_mask`` (a
    run of padded prompts without it raises a MaskError): a forward pass, or generation with or
    without a cache. Contexts nest: the inner one acts on what the outer one left. Other threads
    that use this model wait until the end. The model is restored then, after an exception too.

    Raises:
        ModelError: if this model does not take such edits.
        MaskError: if a part fits neither the model nor the prompts, contradicts another, or is of
            a kind that nobody registered.
    """
    with _put(model, prompts, intervention, "an intervention"):
        yield model


@checked(MaskError)
@contextmanager
def mask_attention(model: Model, prompts: Prompts, mask: Mask) -> Iterator[Model]:
    """Mask the model's attention inside a ``with``: `intervene`, for masks alone.

    The mask goes in by the route that works on the model's architecture.

    Raises:
        ModelError: if this model's attention cannot be masked.
        MaskError: if the mask fits neither the model nor the prompts.
    """
    with _put(model, prompts, MaskUnion(parts_of(mask)), "a mask"):
        yield model


@checked(MaskError, heads=anything, method=anything)
@contextmanager
def ablate_heads(
    model: Model,
    heads: HeadAblation | Collection[Sequence[int]],
    method: Method | str = "zero",
    *,
    reference: HeadReference | None = None,
    prompts: Prompts | None = None,
    seed: int = 0,
) -> Iterator[Model]:
    """Ablate heads of a model inside a ``with``: `intervene`, for ablations alone.

    Args:
        heads: (layer, head) pairs, or a `HeadAblation`, which brings its own method.
        method: "zero", "mean_z", "mean_input" or "resample", as `HeadAblation` says.
        reference: what `head_reference` gave; every method but "zero" asks for one.
        prompts: the prompts that the model is run on, with their attention mask; they say where
            padding ends. ``None`` means that there is no padding.
        seed: of the draws of "resample".

    Raises:
        MaskError: heads that the model does not have; a method without its reference; a run on
            other prompts, or without their attention mask.
        ModelError: if replacing heads' outputs has no effect on this model.
    """
    ablation = heads
    if not isinstance(ablation, HeadAblation):
        ablation = HeadAblation(as_pairs(ablation), method, reference, seed)
    with _put(model, prompts, ablation, "an ablation"):
        yield model


@checked(MaskError, gates=anything)
@contextmanager
def scale_heads(model: Model, gates: Float[Tensor, "layer head"]) -> Iterator[Model]:
    """Multiply each head's output by its gate, inside a ``with``; gradients reach the gates.

    Raises:
        ModelError: if replacing heads' outputs has no effect on this model.
    """
    with _put(model, None, HeadScale(gates), "gates"):
        yield model


@contextmanager
def _put(
    model: Model, prompts: Prompts | None, intervention: Intervention, act: str
) -> Iterator[None]:
    """Put interventions on a model, all of them checked before any acts."""
    with hold(model), ExitStack() as stack:
        _look_first(model)
        check = None if prompts is None else runs_of(prompts)
        rows = RowCount(None if prompts is None else prompts.attention_mask, act, check, model)
        site = Site(model, prompts, rows)
        contexts = [put_on(site, apply, some) for apply, some in by_application(intervention)]
        stack.enter_context(hold(model, rows.note))
        for context in contexts:
            stack.enter_context(context)
        yield


def _look_first(model: Model) -> None:
    """Try what a model takes before anything acts on it; whoever asks for it says if it failed."""
    if model in _looked_at:
        return
    _looked_at.add(model)
    for look in (find_route, partial(check_point, point="z")):  # which tries all points
        with suppress(ModelError, MaskError):
            look(model)
