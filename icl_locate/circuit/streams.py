"""The states of the query's own tokens, by type, at every layer."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.circuit.tokens import token_types
from icl_locate.engine.states import stream_states
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

QUERY_TOKENS = {"x": "query_x", "s": "query_s", "y": "query_y_last"}
"""In the order of the text; a label's states are read at its last token."""

ByType = dict[str, Float[Tensor, "layer item d_model"]]


def query_states(
    model: Model,
    prompts: Prompts,
    names: Iterable[str],
    *,
    compat: str | None = None,
    batch_size: int = 32,
) -> ByType:
    """The states of the query's tokens of some types, of one pass.

    Args:
        names: of `QUERY_TOKENS`; "y" where labels stand behind the queries.
        compat: "cho2025" takes the last states behind the final norm, as Hugging Face gives them.

    Returns:
        For each of them ``n_layers + 1`` states: 0 enters block 0, ``l`` leaves block ``l - 1``.
    """
    wanted = [name for name in QUERY_TOKENS if name in {*names}]
    types = token_types(prompts)
    places = [getattr(types, QUERY_TOKENS[name]) for name in wanted]
    mask = types.mask(*places, width=prompts.tokens.shape[1])
    normed = compat is not None
    found = stream_states(model, prompts, mask, final_norm=normed, batch_size=batch_size)
    return {name: found[:, :, i] for i, name in enumerate(wanted)}


def by_seed(tables: list[Tensor]) -> Float[Tensor, "layer seed item"]:
    """Each seed's table of layers and items, in one."""
    return torch.stack(tables, dim=1)
