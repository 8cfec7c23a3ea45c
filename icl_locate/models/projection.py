"""What single heads add to the residual stream, by the weights of the output projection."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from icl_locate.errors import ModelError
from icl_locate.models.bridge import Model


@torch.no_grad()
def project_heads(
    model: Model, layer: int, heads: Sequence[int], z: Float[Tensor, "chosen d_head"]
) -> Float[Tensor, "chosen d_model"]:
    """What heads of a layer add to the residual stream if they give out ``z``, each by itself.

    The projection is run on one head's output at a time, minus what it makes of zeros: its weights
    act whatever they are called, and its bias, which belongs to no head, does not. It runs in
    64 bits where its weights are floating-point numbers. A norm between the projection and the
    stream (Gemma 2's) is left out: it acts on the sum of all heads, not on one.

    Raises:
        ModelError: if the model's attention has no output projection for heads of this width.
    """
    projection = _projection_of(model, layer)
    weights = dict(projection.named_parameters()) | dict(projection.named_buffers())
    exact = all(value.is_floating_point() for value in weights.values())
    device = next(iter(weights.values())).device if weights else model.cfg.device
    width, n_heads = z.shape[1], int(model.cfg.n_heads)
    alone = torch.zeros(len(heads) + 1, n_heads, width, dtype=torch.float64, device=device)
    alone[range(len(heads)), list(heads)] = z.to(alone)
    given = alone.flatten(1)[None]
    try:
        if exact:
            wide = {name: value.double() for name, value in weights.items()}
            found = functional_call(projection, wide, (given,))
        else:
            found = projection(given.float())
    except RuntimeError as error:
        raise ModelError(
            f"the output projection of layer {layer} of this {model.cfg.architecture} takes no "
            f"{n_heads} heads of width {width}: {error}"
        ) from error
    written: Tensor = found[0, :-1] - found[0, -1:]
    return written.float().cpu()


def _projection_of(model: Model, layer: int) -> nn.Module:
    """The module that a layer's head outputs go through, of the model itself."""
    bridge = getattr(model.blocks[layer].attn, "o", None)
    found = getattr(bridge, "original_component", None)
    if not isinstance(found, nn.Module):
        raise ModelError(
            f"layer {layer} of this {model.cfg.architecture} has no output projection: what single "
            "heads add to the residual stream is not known"
        )
    return found
