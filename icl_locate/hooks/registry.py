"""A registry by type of how each kind of intervention is put on a model."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from icl_locate.checks.arguments import refuse, show
from icl_locate.errors import MaskError
from icl_locate.hooks.site import Site
from icl_locate.interventions.ablation import HeadAblation
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.masks import ContextMask, EdgeMask
from icl_locate.interventions.scale import HeadScale
from icl_locate.interventions.states import StateEdit

Application = Callable[[Site, Sequence[Any]], AbstractContextManager[object]]
"""Gives the context in which some interventions of one kind act at a site."""
A = TypeVar("A", bound=Application)

APPLICATIONS: dict[type[Intervention], Application] = {}
"""In the order in which they act at one point of the model: what is scaled is what stands in."""
_OURS = frozenset({ContextMask, EdgeMask, HeadAblation, HeadScale, StateEdit})


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
        APPLICATIONS[kind] = application
        return application

    return register


def _check_kind(kind: Any) -> None:
    if kind is Intervention or not (isinstance(kind, type) and issubclass(kind, Intervention)):
        refuse("kind", kind, "a class made from icl_locate.Intervention", MaskError)


def by_application(
    intervention: Intervention,
) -> list[tuple[Application, list[Intervention]]]:
    """The parts of a composition with what applies them, in the order in which they act."""
    order = list(dict.fromkeys(APPLICATIONS.values()))
    found: dict[int, list[Intervention]] = {}
    for part in intervention.parts:
        found.setdefault(order.index(application_of(part)), []).append(part)
    return [(order[number], found[number]) for number in sorted(found)]


def application_of(part: Intervention) -> Application:
    """What puts a part on a model: its kind's application, or that of the next kind it is made of.

    Raises:
        MaskError: if it is of a kind that nobody registered.
    """
    for kind in type(part).__mro__:
        if kind in APPLICATIONS:
            return APPLICATIONS[kind]
    name = type(part).__name__
    raise MaskError(
        f"nobody said how a {name} is put on a model: register its application with "
        f"@icl_locate.register_intervention({name})"
    )


def is_ours(part: Intervention) -> bool:
    """Whether a part is of one of icl_locate's own kinds, or of one that is put on as they are."""
    kind = next((kind for kind in type(part).__mro__ if kind in APPLICATIONS), None)
    return kind is None or kind in _OURS


def put_on(
    site: Site, apply: Application, parts: Sequence[Intervention]
) -> AbstractContextManager[object]:
    """The context that an application gives for its parts.

    Raises:
        MaskError: if it gives none.
    """
    found: object = apply(site, parts)
    if not isinstance(found, AbstractContextManager):
        kind = type(parts[0]).__name__
        raise MaskError(
            f"the application registered for {kind} gave {show(found)}: expected a context manager "
            "in which it acts, such as site.hooked(...) gives; does it return it?"
        )
    return found
