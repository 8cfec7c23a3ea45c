"""The edits that interventions come to on a model, and how they are put on it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial

from torch import Tensor

from icl_locate.hooks.heads import split_heads
from icl_locate.hooks.outputs import ablation_edits, scale_edits
from icl_locate.hooks.registry import application_of
from icl_locate.hooks.site import Site
from icl_locate.interventions.ablation import HeadAblation
from icl_locate.interventions.base import Composition, Intervention
from icl_locate.interventions.edits import Edit, Point
from icl_locate.interventions.scale import HeadScale
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

HOOKS: dict[Point, str] = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "z": "blocks.{}.attn.hook_z",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "resid_post": "blocks.{}.hook_resid_post",
}
"""What TransformerLens calls the points of a layer."""


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
    return edit(split, partial(site.where, edit.layer, len(value))).reshape(value.shape)


def edits_of(model: Model, prompts: Prompts | None, intervention: Intervention) -> list[Edit]:
    """The edits of the parts of an intervention that are put on a model by `put_edits`.

    They are in the order in which they act: ablations replace heads' outputs, scales multiply what
    stands there then. Twice is once.

    Args:
        prompts: what the model is run on; ``None`` where nobody said, and there is no padding.

    Raises:
        ModelError: if the model does not take such edits.
        MaskError: if a part does not fit the model or the prompts, or contradicts another.
    """
    parts = [part for part in intervention.parts if is_edit(part)]
    ablations = [part for part in parts if isinstance(part, HeadAblation)]
    scales = [part for part in parts if isinstance(part, HeadScale)]
    edits = ablation_edits(model, prompts, ablations) if ablations else []
    return edits + (scale_edits(model, scales) if scales else [])


def is_edit(part: Intervention) -> bool:
    """Whether a part is put on a model by `put_edits`: a kind of one's own may not be."""
    return isinstance(part, (HeadAblation, HeadScale)) and application_of(part) is put_edits
