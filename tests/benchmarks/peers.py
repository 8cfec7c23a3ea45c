"""The same work in other libraries, written as their own documents teach it: one run at a time.

nnsight (https://nnsight.net, "Activation patching", "Per-head attention") has a trace for each run,
in which a module's input is assigned to. TransformerLens has `generic_activation_patch` for heads,
and a hook on the attention scores, given to `run_with_hooks`, for masks. nnsight is imported only
where it is asked for: it is no dependency of this project, not even for its tests.
"""

import importlib.util
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pandas as pd
import torch
from patches import Patch, first_tokens, target_log_probs, with_targets
from torch import Tensor
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaForCausalLM

import icl_locate as icl

HAS_NNSIGHT = importlib.util.find_spec("nnsight") is not None


def traced(plain: LlamaForCausalLM) -> Any:
    """A copy of the model in nnsight."""
    from nnsight import NNsight

    return NNsight(deepcopy(plain))


@torch.no_grad()
def traced_patches(model: Any, prompts: icl.Prompts, patches: Sequence[Patch]) -> Tensor:
    """First tokens' probabilities ``[patch, prompt]``: a trace for each head's output."""
    tokens, found = prompts.tokens.to(model.device), []
    for patch in patches:
        value = patch.value.to(model.device)
        width, head = len(value), patch.head
        with model.trace(tokens, use_cache=False):
            z = model.model.layers[patch.layer].self_attn.o_proj.input
            z.unflatten(-1, (-1, width))[:, -1, head] = value
            logits = model.lm_head.output[:, -1:].save()
        found.append(first_tokens(prompts, logits))
    return torch.stack(found)


@torch.no_grad()
def traced_masks(model: Any, prompts: icl.Prompts, hidden: Tensor) -> Tensor:
    """Targets' log-probabilities ``[start, prompt]``: a trace for each start layer.

    Args:
        hidden: ``[prompt, row, key]``, what is hidden from the start layer on.
    """
    tokens, found = with_targets(prompts).to(model.device), []
    layers = model.model.layers
    hidden = hidden[:, None].to(model.device)
    for start in range(len(layers) + 1):
        with model.trace(tokens, use_cache=False):
            for layer in layers[start:]:
                args, kwargs = layer.self_attn.inputs
                mask = kwargs["attention_mask"]
                mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
                layer.self_attn.inputs = (args, {**kwargs, "attention_mask": mask})
            logits = model.lm_head.output.save()
        found.append(target_log_probs(prompts, logits))
    return torch.stack(found)


@torch.no_grad()
def lens_patches(
    bridge: TransformerBridge, prompts: icl.Prompts, patches: Sequence[Patch]
) -> Tensor:
    """The same by TransformerLens's own loop over patches."""
    values = {(patch.layer, patch.head): patch.value.to(bridge.cfg.device) for patch in patches}
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(bridge.cfg.n_layers)]
    result = patching.generic_activation_patch(
        bridge,
        prompts.tokens.to(bridge.cfg.device),
        dict.fromkeys(names, values),
        lambda logits: first_tokens(prompts, logits),
        _put_at_last,
        "z",
        index_df=pd.DataFrame(list(values), columns=["layer", "head"]),
        reduce="none",
    )
    return result.values.cpu()


def _put_at_last(z: Tensor, index: Sequence[int], values: dict[tuple[int, int], Tensor]) -> Tensor:
    layer, head = index
    z[:, -1, head] = values[layer, head]
    return z


@torch.no_grad()
def lens_masks(bridge: TransformerBridge, prompts: icl.Prompts, hidden: Tensor) -> Tensor:
    """The same by a hook on the attention scores of every layer from the start layer on."""
    tokens, n_layers = with_targets(prompts).to(bridge.cfg.device), bridge.cfg.n_layers
    hidden = hidden[:, None].to(bridge.cfg.device)

    def hide(scores: Tensor, hook: object) -> Tensor:
        return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)

    found = []
    for start in range(n_layers + 1):
        names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(start, n_layers)]
        logits = bridge.run_with_hooks(tokens, fwd_hooks=[(name, hide) for name in names])
        found.append(target_log_probs(prompts, logits))
    return torch.stack(found)
