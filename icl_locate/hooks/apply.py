"""Interventions on a model: a registry by type of how each kind is put on it."""

import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks.context import put_masks
from icl_locate.hooks.holding import hold
from icl_locate.hooks.outputs import check_outputs, put_ablations, put_scales
from icl_locate.hooks.padding import runs_of
from icl_locate.hooks.positions import RowCount
from icl_locate.hooks.probe import find_route
from icl_locate.hooks.site import Site
from icl_locate.interventions.ablation import HeadAblation, HeadReference, Method
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.layers import as_pairs
from icl_locate.interventions.masks import ContextMask, EdgeMask, Mask, MaskUnion, parts_of
from icl_locate.interventions.scale import HeadScale
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

Application = Callable[[Site, Sequence[Any]], AbstractContextManager[object]]
"""Gives the context in which some interventions of one kind act at a site."""
A = TypeVar("A", bound=Application)

_APPLICATIONS: dict[type[Intervention], Application] = {
    ContextMask: put_masks,
    EdgeMask: put_masks,
    HeadAblation: put_ablations,
    HeadScale: put_scales,
}
"""In the order in which they act at one point of the model: what is scaled is what stands in."""
_OURS = frozenset(_APPLICATIONS)

_looked_at: "weakref.WeakSet[Model]" = weakref.WeakSet()


def register_intervention(kind: type[Intervention]) -> Callable[[A], A]:
    """Say how a kind of intervention is put on a model: a decorator of its application.

    The application takes a `Site` (the model, its prompts, where the running rows stand) and all
    interventions of the kind that act there, each once; it checks them, and gives a context manager
    in which they act. From then on the kind joins others by ``|``, and runs wherever a mask does:
    `intervene`, `score_targets`, `score_labels`, `generate`, and the hooks engine's grids.

    >>> from dataclasses import dataclass
    >>> from functools import partial
    >>> @dataclass(frozen=True)
    ... class ScaleMLP(Intervention):
    ...     layer: int
    ...     factor: float
    >>> def scale(factor, value, hook):
    ...     return factor * value
    >>> @register_intervention(ScaleMLP)
    ... def scale_mlps(site, parts):
    ...     at = "blocks.{}.mlp.hook_out".format
    ...     return site.hooked([(at(part.layer), partial(scale, part.factor)) for part in parts])

    Raises:
        MaskError: if it is no class of interventions, or one of icl_locate's own.
    """
    _check_kind(kind)
    if kind in _OURS:
        raise MaskError(f"kind is {kind.__name__}, which icl_locate applies itself: subclass it")

    def register(application: A) -> A:
        if not callable(application):
            refuse("application", application, "a function of (site, interventions)", MaskError)
        _APPLICATIONS[kind] = application
        return application

    return register


def _check_kind(kind: Any) -> None:
    if kind is Intervention or not (isinstance(kind, type) and issubclass(kind, Intervention)):
        refuse("kind", kind, "a class made from icl_locate.Intervention", MaskError)


@checked(MaskError)
@contextmanager
def intervene(model: Model, prompts: Prompts, intervention: Intervention) -> Iterator[Model]:
    """Do something to a model inside a ``with``: any composition of interventions by ``|``.

    Context masks, edge masks, head ablations, head scales and kinds of your own
    (`register_intervention`). Their order does not matter, and twice is once: masks hide what any
    of them hides; ablations then replace heads' outputs; scales multiply what stands there, be it
    the head's own output or what replaced it. A head that two ablations replace by different
    values, or that has two different factors, is refused.

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
        contexts = [apply(site, parts) for apply, parts in _by_application(intervention)]
        stack.enter_context(hold(model, rows.note))
        for context in contexts:
            stack.enter_context(context)
        yield


def _by_application(
    intervention: Intervention,
) -> list[tuple[Application, list[Intervention]]]:
    """The parts of a composition with what applies them, in the order in which they act."""
    order = list(dict.fromkeys(_APPLICATIONS.values()))
    found: dict[int, list[Intervention]] = {}
    for part in intervention.parts:
        found.setdefault(order.index(_application_of(part)), []).append(part)
    return [(order[number], found[number]) for number in sorted(found)]


def _application_of(part: Intervention) -> Application:
    for kind in type(part).__mro__:
        if kind in _APPLICATIONS:
            return _APPLICATIONS[kind]
    name = type(part).__name__
    raise MaskError(
        f"nobody said how a {name} is put on a model: register its application with "
        f"@icl_locate.register_intervention({name})"
    )


def _look_first(model: Model) -> None:
    """Try what a model takes before anything acts on it; whoever asks for it says if it failed."""
    if model in _looked_at:
        return
    _looked_at.add(model)
    for look in (find_route, check_outputs):
        with suppress(ModelError, MaskError):
            look(model)
