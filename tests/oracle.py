"""An independent implementation of masked attention: plain Hugging Face models, masks by loops.

It shares no code with the package: cells are decided one by one, written into the 4-D mask that
each attention module of an eager model is given, and rows without any visible key are zeroed in
front of the output projection.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import tiny
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PROJECTIONS = ("o_proj", "c_proj", "out_proj", "dense")


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that are given a mask and hold the output projection, one a layer."""
    found = []
    for module in model.modules():
        names = dict(module.named_children())
        keys = {"q_proj", "c_attn", "query_key_value"} & set(names)
        if keys and any(name in names for name in PROJECTIONS):
            found.append(module)
    assert len(found) == tiny.N_LAYERS
    return found


def window_of(architecture: str, layer: int) -> int:
    """How many keys, its own included, a row sees in a layer."""
    sliding = {
        "mistral": True,
        "gemma2": layer % 2 == 0,
        "gpt_neo": layer % 3 == 1,
    }
    return tiny.WINDOW if sliding.get(architecture, False) else tiny.N_CTX


def visible_cells(
    segments: list[int],
    hide: set[int],
    *,
    rows: str = "all",
    keep_self: bool = False,
    window: int = tiny.N_CTX,
    masked: bool = True,
) -> Tensor:
    """Bool[query, key] of one prompt, by the definition, cell by cell (PAD=0, GENERATED=5)."""
    n = len(segments)
    in_prompt = (i for i in range(n) if segments[i] in hide and segments[i] != 5)
    last_hidden = max(in_prompt, default=-1)
    cells = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(i + 1):
            if segments[j] == 0 or i - j >= window:
                continue
            hidden = masked and segments[j] in hide and segments[i] != 0
            if rows == "after" and i <= last_hidden:
                hidden = False
            if keep_self and i == j:
                hidden = False
            cells[i, j] = not hidden
    return cells


@contextmanager
def masked_attention(model: PreTrainedModel, visible: list[Tensor]) -> Iterator[None]:
    """Give each layer its own visibility, Bool[batch, head, query, key]."""
    with ExitStack() as stack:
        for attention, cells in zip(attention_modules(model), visible, strict=True):
            additive = torch.zeros(cells.shape).masked_fill(~cells, torch.finfo(torch.float).min)
            empty = ~cells.any(-1)

            def give_mask(module, args, kwargs, additive=additive):
                return args, kwargs | {"attention_mask": additive}

            def zero_rows(module, args, empty=empty):
                batch, n, width = args[0].shape
                z = args[0].view(batch, n, tiny.N_HEADS, -1)
                z = z.masked_fill(empty.transpose(1, 2)[..., None], 0.0)
                return (z.reshape(batch, n, width),)

            children = dict(attention.named_children())
            projection = next(children[name] for name in PROJECTIONS if name in children)
            stack.callback(attention.register_forward_pre_hook(give_mask, with_kwargs=True).remove)
            stack.callback(projection.register_forward_pre_hook(zero_rows).remove)
        yield


def logits(model: PreTrainedModel, tokens: Tensor, real: Tensor, visible: list[Tensor]) -> Tensor:
    """Logits of a left-padded batch under the given visibility."""
    positions = (real.long().cumsum(-1) - 1).clamp(min=0)
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    extra = {"position_ids": positions} if takes_positions else {}
    with torch.no_grad(), masked_attention(model, visible):
        return model(tokens, attention_mask=real.long(), use_cache=False, **extra).logits
