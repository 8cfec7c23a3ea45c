"""Finding each layer's attention output projection in any decoder of Hugging Face."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from icl_locate.errors import ModelError


def output_projections(model: PreTrainedModel) -> list[str]:
    """The name of the linear module that ends each layer's attention, layer by layer.

    Found by running the model on one token: it is the last linear module that runs inside the
    attention of its layer.

    Raises:
        ModelError: if the model has no single stack of layers with attention.
    """
    n_layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not stacks:
        raise ModelError(f"{type(model).__name__} has no stack of {n_layers} layers: expected one")
    prefix = stacks[0][0]
    called: list[str] = []
    handles = []

    def note(name: str) -> Any:
        return lambda *_: called.append(name)

    for name, module in model.named_modules():
        inside = name.startswith(f"{prefix}.") and "att" in name.removeprefix(prefix)
        if inside and isinstance(module, (nn.Linear, Conv1D)):
            handles.append(module.register_forward_hook(note(name)))
    try:
        with torch.no_grad():
            model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    last = {int(name.removeprefix(f"{prefix}.").split(".")[0]): name for name in called}
    if sorted(last) != list(range(n_layers)):
        raise ModelError(
            f"{type(model).__name__} has layers without linear attention projections: expected a "
            "decoder-only transformer"
        )
    return [last[layer] for layer in range(n_layers)]
