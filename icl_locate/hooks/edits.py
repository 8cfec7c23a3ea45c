"""The edits that interventions come to on a model, and how they are put on it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from icl_locate.hooks.heads import split_heads
from icl_locate.hooks.outputs import ablation_edits, scale_edits
from icl_locate.hooks.points import HOOKS
from icl_locate.hooks.registry import application_of
from icl_locate.hooks.site import Site
from icl_locate.hooks.states import state_edits
from icl_locate.interventions.ablation import HeadAblation
from icl_locate.interventions.base import Composition, Intervention
from icl_locate.interventions.edits import Edit, Where
from icl_locate.interventions.scale import HeadScale
from icl_locate.interventions.states import StateEdit
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.tokens import Prompts

_KINDS = (HeadAblation, HeadScale, StateEdit)


def put_edits(site: Site, parts: Sequence[Intervention]) -> AbstractContextManager[object]:
    """The context in which interventions edit the values that pass a model's points.

    Raises:
        ModelError, MaskError: as `edits_of` does.
    """
    edits = edits_of(site.model, site.prompts, Composition(tuple(parts)))
    return site.hooked(
        (HOOKS[edit.point].format(edit.layer), partial(_apply, edit, site)) for edit in edits
    )


def _apply(edit: Edit, site: Site, value: Tensor, hook: object) -> Tensor:  # noqa: ARG001
    split = split_heads(site.model, value) if edit.point == "z" else value
    return edit(split, partial(_where, site, edit.layer, len(value))).reshape(value.shape)


def _where(site: Site, layer: int, n_texts: int) -> Where:
    """Which rows the running call shows a layer, of so many texts.

    Raises:
        MaskError: if there is padding, and no prompts that say where; inside a `drop_context` that
            drops rows there.
    """
    places = site.rows.places(layer)
    positions = torch.arange(site.rows.start, site.rows.end)[None]
    return Where(torch.arange(n_texts), positions, places)


def edits_of(model: Model, prompts: Prompts | None, intervention: Intervention) -> list[Edit]:
    """The edits of the parts of an intervention that are put on a model by `put_edits`.

    They are in the order in which they act: ablations replace heads' outputs, scales multiply what
    stands there then, and states are edited last. Twice is once.

    Args:
        prompts: what the model is run on; ``None`` where nobody said, and there is no padding.

    Raises:
        ModelError: if the model does not take such edits.
        MaskError: if a part does not fit the model or the prompts, or contradicts another.
    """
    parts = [part for part in intervention.parts if is_edit(part)]
    ablations = [part for part in parts if isinstance(part, HeadAblation)]
    scales = [part for part in parts if isinstance(part, HeadScale)]
    states = [part for part in parts if isinstance(part, StateEdit)]
    with hold_weights(model):  # each part may ask whose weights these are
        edits = ablation_edits(model, prompts, ablations) if ablations else []
        edits += scale_edits(model, scales) if scales else []
        return edits + (state_edits(model, prompts, states) if states else [])


def is_edit(part: Intervention) -> bool:
    """Whether a part is put on a model by `put_edits`: a kind of one's own may not be."""
    return isinstance(part, _KINDS) and application_of(part) is put_edits
