"""Planted models: the answer to "from which layer is the context no longer needed" is known."""

import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def attention_only_in(layers: set[int], n_layers: int = 6, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama whose attention outputs are zero except in the given layers."""
    config = LlamaConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        for layer, block in enumerate(model.model.layers):
            block.self_attn.o_proj.weight.mul_(100.0 if layer in layers else 0.0)
            block.self_attn.v_proj.weight.mul_(20.0)
            block.self_attn.q_proj.weight.mul_(10.0)
    return model
