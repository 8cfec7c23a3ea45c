"""Choosing heads by score, and as many others at random."""

import math
import random
from collections.abc import Collection, Sequence

from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.signatures import anything, checked, number
from icl_locate.errors import MaskError
from icl_locate.interventions.edges import InductionEdges, Match
from icl_locate.interventions.heads import HeadSet
from icl_locate.interventions.layers import as_pairs
from icl_locate.interventions.masks import EdgeMask


@checked(MaskError, fraction=number(above=0, most=1))
def select_heads(scores: Float[Tensor, "layer head"], fraction: float) -> HeadSet:
    """The heads of the highest scores: ``ceil(fraction * n_layers * n_heads)`` of them.

    Raises:
        MaskError: if the fraction is not in (0, 1], or a score is NaN.
    """
    if not 0 < fraction <= 1:
        raise MaskError(f"fraction is {fraction}: expected a share above 0, at most 1")
    if scores.isnan().any():
        raise MaskError("a score is NaN: expected numbers")
    n_layers, n_heads = scores.shape
    n_chosen = math.ceil(round(fraction * n_layers * n_heads, 9))
    best = scores.flatten().argsort(descending=True, stable=True)[:n_chosen].tolist()
    return HeadSet(tuple(divmod(place, n_heads) for place in best), n_layers, n_heads)


@checked(MaskError, like=anything)
def random_heads(
    like: Collection[tuple[int, int]], *, seed: int = 0, n_heads: int | None = None
) -> HeadSet:
    """A random control: as many heads in each layer as in ``like``, none of them in it.

    Args:
        like: the selection; what `select_heads` gave knows the model's sizes.
        n_heads: heads in each layer, for any other collection.

    Raises:
        MaskError: if a layer has too few other heads, or ``n_heads`` is not known.
    """
    pairs = as_pairs(like, "like")
    n_layers = 1 + max((layer for layer, _ in pairs), default=0)
    if isinstance(like, HeadSet):
        n_layers, n_heads = like.n_layers, like.n_heads
    if n_heads is None:
        raise MaskError("n_heads is not known: give it, or a selection made by select_heads")
    generator = random.Random(f"random heads/{seed}")
    chosen: list[tuple[int, int]] = []
    for layer in range(n_layers):
        taken = {head for at, head in pairs if at == layer}
        others = [head for head in range(n_heads) if head not in taken]
        if len(others) < len(taken):
            raise MaskError(
                f"layer {layer} has {n_heads} heads, of which {len(taken)} are selected: too few "
                "are left for a random control; select a smaller fraction, or use no controls"
            )
        chosen += [(layer, head) for head in sorted(generator.sample(others, len(taken)))]
    return HeadSet(tuple(chosen), n_layers, n_heads)


@checked(MaskError, heads=anything)
def knockout(heads: Collection[Sequence[int]] | None, *, match: Match | str = "token") -> EdgeMask:
    """Cut heads off from the induction pattern (Crosbie and Shutova 2024, section 5).

    The mask hides from each row the tokens that directly follow an earlier occurrence of the row's
    own token; everything else stays visible. It holds through generation.

    Args:
        heads: (layer, head) pairs; ``None`` means every head.
        match: what counts as an occurrence: the same "token", or the same "word", label or
            delimiter.
    """
    return EdgeMask(InductionEdges(match), heads=None if heads is None else as_pairs(heads))
