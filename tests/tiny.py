"""Tiny random Hugging Face models of many architectures, built from configs and saved to disk."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers as hf
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, PreTrainedModel

from icl_locate.embedded.tokenizer import build_tokenizer, vocabulary

VOCABULARY = len(vocabulary())
N_LAYERS, N_HEADS, D_MODEL, N_CTX = 3, 4, 32, 256
WINDOW = 5

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": N_CTX,
}
_GATED = _COMMON | {"intermediate_size": 64, "num_key_value_heads": 2}
_OLD = {"vocab_size": VOCABULARY, "n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS}

Builder = Callable[[], PreTrainedModel]

ARCHITECTURES: dict[str, Builder] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_OLD, n_positions=N_CTX)),
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=D_MODEL,
            num_layers=N_LAYERS,
            num_heads=N_HEADS,
            max_position_embeddings=N_CTX,
            attention_types=[[["global", "local", "global"], 1]],
            window_size=WINDOW,
        )
    ),
    "bloom": lambda: hf.BloomForCausalLM(
        hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS)
    ),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_GATED)),
    "starcoder2": lambda: hf.Starcoder2ForCausalLM(hf.Starcoder2Config(**_GATED)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_COMMON, intermediate_size=64)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_GATED)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**_GATED, head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW)
    ),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_GATED, sliding_window=WINDOW)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(**_COMMON, ffn_dim=64, word_embed_proj_dim=D_MODEL)
    ),
    "gptj": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**_OLD, n_positions=N_CTX, rotary_dim=4)),
}
"""The parity list: score edits work on some, mask edits alone on gpt_neo, opt and gptj."""


MORE: dict[str, Builder] = {
    "llama_wide": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(**_GATED, head_dim=12, attention_bias=True)
    ),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**_GATED, num_local_experts=4, num_experts_per_tok=2)
    ),
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**_GATED, head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW)
    ),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**_COMMON, intermediate_size=64)),
}
"""Heads wider than their share, with biases behind them; experts; norms behind; parallel parts."""


def build(architecture: str, seed: int = 0) -> PreTrainedModel:
    """A tiny random model with weights large enough that attention matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (ARCHITECTURES | MORE)[architecture]()
        model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id = 0, 1, 2
        model.config._attn_implementation = "eager"
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if weights.ndim == 2 and not any(part in name for part in ("emb", "wte", "wpe")):
                    weights.mul_(5.0)
                elif "bias" in name:
                    weights.normal_(std=0.1)
    return model.eval()


@cache
def boot(architecture: str) -> TransformerBridge:
    """The tiny model as a bridge, booted once a process: leave its weights as they are."""
    return boot_fresh(architecture)


def boot_fresh(architecture: str) -> TransformerBridge:
    """The tiny model as a bridge of one's own."""
    return bridge(build(architecture))


def bridge(model: PreTrainedModel) -> TransformerBridge:
    """A bridge around a model, through a directory, with the embedded model's tokenizer."""
    with TemporaryDirectory() as weights, TemporaryDirectory() as words:
        model.save_pretrained(weights)
        build_tokenizer().save_pretrained(words)  # apart: some configs would pick their own class
        tokenizer = AutoTokenizer.from_pretrained(words)
        booted = TransformerBridge.boot_transformers(weights, device="cpu", tokenizer=tokenizer)
    return booted.eval()


def save(model: PreTrainedModel, directory: Path) -> Path:
    """Write the model with the embedded model's tokenizer, as a local Hugging Face directory."""
    model.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory
