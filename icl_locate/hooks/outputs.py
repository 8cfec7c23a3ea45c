"""Edits of heads' outputs: what stands in for them, and by how much they are scaled."""

import random
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.errors import MaskError
from icl_locate.hooks.points import check_point
from icl_locate.interventions.ablation import HeadAblation
from icl_locate.interventions.edits import Edit, Rows, Where
from icl_locate.interventions.scale import HeadScale
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import check_origin
from icl_locate.prompts.tokens import Prompts

StandIn = Callable[[Tensor, Rows], Float[Tensor, "#row #pos #head #d_head"]]
Table = Float[Tensor, "layer head"]
Chosen = Bool[Tensor, "layer head"]


def ablation_edits(
    model: Model, prompts: Prompts | None, parts: Sequence[HeadAblation]
) -> list[Edit]:
    """The edits that replace heads' outputs.

    Raises:
        ModelError: if replacing heads' outputs has no effect on this model.
        MaskError: heads that the model does not have, or that several ablations replace by
            different values; a reference that another model gave.
    """
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    owners: dict[tuple[int, int], HeadAblation] = {}
    edits: list[Edit] = []
    for part in parts:
        _check_reference(model, part)
        for layer, heads in part.by_layer(n_layers, n_heads).items():
            new = [head for head in heads if _claim(owners, part, layer, head)]
            if new:
                values = _stand_in(part, layer, new, prompts)
                edits.append(Edit(layer, "z", partial(_replace, new, values)))
    check_point(model, "z")
    return edits


def _claim(
    owners: dict[tuple[int, int], HeadAblation], part: HeadAblation, layer: int, head: int
) -> bool:
    """Whether a head is this ablation's: it is not if the same stands in for it already."""
    owner = owners.setdefault((layer, head), part)
    if owner is part:
        return True
    if _recipe(owner) != _recipe(part):
        raise MaskError(
            f"head (layer {layer}, head {head}) is ablated by {owner.method!r} and by "
            f"{part.method!r} of other values: ablate each head in one way only"
        )
    return False


def _recipe(part: HeadAblation) -> tuple[object, ...]:
    """What an ablation's values depend on."""
    reference = None if part.method == "zero" else id(part.reference)
    return part.method, reference, part.seed if part.method == "resample" else None


def _check_reference(model: Model, ablation: HeadAblation) -> None:
    if ablation.reference is not None:
        recipe, remedy = ablation.reference.provenance, "make it with this one, by head_reference"
        check_origin("the reference", recipe, model, remedy, MaskError)


def _replace(heads: list[int], values: StandIn, z: Tensor, rows: Rows) -> Tensor:
    new = z.clone()
    new[:, :, heads] = values(z, rows).to(z.dtype)
    return new


def _stand_in(
    ablation: HeadAblation, layer: int, heads: list[int], prompts: Prompts | None
) -> StandIn:
    """What stands in for the heads' outputs, given the layer's outputs."""
    reference = ablation.reference
    if ablation.method == "zero" or reference is None:
        return _zeros
    if ablation.method == "resample":
        samples = reference.samples[layer][:, :, heads]
        names = () if prompts is None else _names(prompts)
        draw = partial(_draw, ablation.seed, names)
        return partial(_resampled, samples, reference.sample_lengths, draw)
    means = reference.mean_z if ablation.method == "mean_z" else reference.mean_input_z
    return partial(_means, means[layer][:, heads])


def _zeros(z: Tensor, rows: Rows) -> Tensor:  # noqa: ARG001
    return z.new_zeros(1, 1, 1, 1)


def _means(table: Float[Tensor, "row head d_head"], z: Tensor, rows: Rows) -> Tensor:
    return table[rows().places.clamp(max=len(table) - 1)].to(z.device)


def _resampled(
    samples: Float[Tensor, "sample pos head d_head"],
    lengths: Int[Tensor, "sample"],
    draw: Callable[[Where, int], Int[Tensor, "row"]],
    z: Tensor,
    rows: Rows,
) -> Tensor:
    where = rows()
    drawn = draw(where, len(lengths))
    within = where.places % lengths[drawn][:, None]
    return samples[drawn[:, None], within].to(z.device)


def _names(prompts: Prompts) -> tuple[str, ...]:
    """What tells prompts apart however they are batched: their texts, or else their tokens."""
    given = prompts.attention_mask & (prompts.segments != Segment.GENERATED)
    rows = zip(prompts.texts, prompts.tokens, given, strict=True)
    return tuple(text or str(tokens[mine].tolist()) for text, tokens, mine in rows)


def _draw(seed: int, names: Sequence[str], where: Where, n_samples: int) -> Int[Tensor, "row"]:
    """Which sample each row is given, by its prompt, or its number where nobody said what runs."""
    keys = [names[i] if names else str(i) for i in where.prompts.tolist()]
    return torch.tensor([random.Random(f"{seed}/{key}").randrange(n_samples) for key in keys])


def scale_edits(model: Model, parts: Sequence[HeadScale]) -> list[Edit]:
    """The edits that multiply heads' outputs by their factors.

    Raises:
        ModelError: if replacing heads' outputs has no effect on this model.
        MaskError: heads that the model does not have, or that are given several factors, or
            several tensors of them of which one is learned.
    """
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    taken = torch.zeros(n_layers, n_heads, dtype=torch.bool)
    scales: list[tuple[Table, Chosen]] = []
    for part in parts:
        table, named = part.table(n_layers, n_heads)
        for other, theirs in scales:
            _refuse_two_learned(other, table, theirs & named)
            differ = theirs & named & (other.detach().cpu() != table.detach().cpu())
            if differ.any():
                layer, head = differ.nonzero()[0].tolist()
                raise MaskError(
                    f"head (layer {layer}, head {head}) is scaled by two factors, "
                    f"{float(other[layer, head]):g} and {float(table[layer, head]):g}: give each "
                    "head one, their product"
                )
        scales.append((table, named & ~taken))
        taken |= named
    check_point(model, "z")
    return [
        Edit(layer, "z", partial(_scale, table[layer], mine[layer]))
        for table, mine in scales
        for layer in mine.any(dim=1).nonzero()[:, 0].tolist()
    ]


def _refuse_two_learned(one: Table, other: Table, both: Chosen) -> None:
    """Refuse equal factors that the next step makes unequal, of which but one would get gradients.

    The same tensor twice is once.
    """
    if one is not other and both.any() and (one.requires_grad or other.requires_grad):
        layer, head = both.nonzero()[0].tolist()
        raise MaskError(
            f"head (layer {layer}, head {head}) is scaled by gates that are learned and by other "
            "factors: give each head one tensor of gates, their product"
        )


def _scale(
    factors: Float[Tensor, "head"],
    mine: Bool[Tensor, "head"],
    z: Float[Tensor, "row pos head d_head"],
    rows: Rows,  # noqa: ARG001
) -> Float[Tensor, "row pos head d_head"]:
    given = factors.to(z.device, z.dtype)
    if not mine.all():
        given = torch.where(mine.to(z.device), given, 1.0)
    return z * given[:, None]
