"""What single heads read and write, by the weights of their projections."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from icl_locate.errors import ModelError
from icl_locate.models.bridge import Model
from icl_locate.models.memory import is_out_of_memory


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
    projection = _projection_of(model, layer, "o")
    if projection is None:
        raise ModelError(
            f"layer {layer} of this {model.cfg.architecture} has no output projection: what single "
            "heads add to the residual stream is not known"
        )
    width, n_heads = z.shape[1], int(model.cfg.n_heads)
    alone = torch.zeros(len(heads), n_heads, width, dtype=torch.float64)
    alone[range(len(heads)), list(heads)] = z.to(alone)
    try:
        return _without_bias(projection, alone.flatten(1)).float().cpu()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"the output projection of layer {layer} of this {model.cfg.architecture} takes no "
            f"{n_heads} heads of width {width}: {error}"
        ) from error


@torch.no_grad()
def query_key_weights(
    model: Model, layer: int
) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, "kv_head d_head d_model"]]:
    """The matrices W_Q and W_K of a layer's heads, which act on what enters its attention.

    Read off the projections by running them on unit vectors, so that names, joint matrices and
    transposed ones do not matter. What a model does to queries and keys behind them is left out:
    biases, norms, rotary positions and the scale. With grouped queries head ``h`` reads the keys of
    ``h // (heads / kv_heads)``.

    Raises:
        ModelError: if the model makes its queries or keys otherwise, such as latent attention.
    """
    queries = _matrices_of(model, layer, "q", "queries")
    keys = _matrices_of(model, layer, "k", "keys")
    n_heads = int(model.cfg.n_heads)
    if len(queries) != n_heads or n_heads % len(keys):
        raise ModelError(
            f"layer {layer} of this {model.cfg.architecture} has {len(queries)} queries and "
            f"{len(keys)} keys for its {n_heads} heads: which belong together is not known"
        )
    return queries, keys


def _matrices_of(
    model: Model, layer: int, name: str, called: str
) -> Float[Tensor, "head d_head d_model"]:
    """The matrix of each head in a projection."""
    projection, width = _projection_of(model, layer, name), int(model.cfg.d_model)
    d_head = int(getattr(model.cfg, "d_head", width // int(model.cfg.n_heads)))
    try:
        if projection is None:
            raise RuntimeError("there is no projection for these alone")
        made = _without_bias(projection, torch.eye(width, dtype=torch.float64))
        return made.T.reshape(-1, d_head, width).float().cpu()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"layer {layer} of this {model.cfg.architecture} does not make the {called} of its "
            f"heads, each {d_head} wide, by a matrix of the states that enter it: {error}"
        ) from error


def _without_bias(
    projection: nn.Module, given: Float[Tensor, "row width"]
) -> Float[Tensor, "row out"]:
    """What a projection makes of rows, minus what it makes of zeros."""
    weights = dict(projection.named_parameters()) | dict(projection.named_buffers())
    exact = all(value.is_floating_point() for value in weights.values())
    device = next(iter(weights.values())).device if weights else given.device
    rows = torch.cat([given, torch.zeros_like(given[:1])]).to(device)[None]
    if exact:
        wide = {name: value.double() for name, value in weights.items()}
        found = functional_call(projection, wide, (rows,))
    else:
        found = projection(rows.float())
    written: Tensor = found[0, :-1] - found[0, -1:]
    return written


def _projection_of(model: Model, layer: int, name: str) -> nn.Module | None:
    """A module that a layer's attention runs through, of the model itself."""
    bridge = getattr(model.blocks[layer].attn, name, None)
    found = getattr(bridge, "original_component", None)
    return found if isinstance(found, nn.Module) else None
