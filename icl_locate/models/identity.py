"""What a model answers by beside its weights: its config, its tokenizer, and what ends a text."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from torch import nn
from transformer_lens.hook_points import HookPoint

_OF_FILES = frozenset(
    {
        "_attn_implementation_internal",
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "bos_token_id",  # prompts hold it, or do not
        "dtype",  # that of the weights counts
        "eos_token_id",  # `end_tokens` says which count
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""What a config says that changes no answer: where it came from, and what else a run gives."""
_OF_CALLS = ("padding", "truncation", "version")  # of a tokenizer's file; calls leave the first two


def describe_config(model: nn.Module) -> dict[str, Any]:
    """What a Hugging Face model's config says of how it computes: its digest, and its attention.

    And the numbers that its modules took from there, such as a norm's epsilon, as they are now.
    Equal weights compute other things under another rotary base, window, cap, number of heads.
    What is off is left out, so that options which a later version knows change nothing.
    """
    config: Any = getattr(model, "config", None)
    said = _essence(config.to_dict()) if hasattr(config, "to_dict") else {}
    text = json.dumps(said, sort_keys=True, default=str)
    return {
        "sha256": sha256(text.encode()).hexdigest(),
        "attention": getattr(config, "_attn_implementation", None),
        "numbers": sha256(json.dumps(_numbers(model)).encode()).hexdigest(),
    }


def _numbers(model: nn.Module) -> list[tuple[str, float]]:
    modules = (one for one in model.named_modules() if not isinstance(one[1], HookPoint))
    return [
        (f"{name}.{key}", value)
        for name, module in modules
        for key, value in sorted(vars(module).items())
        if type(value) is float and not key.startswith("_")
    ]


def _essence(said: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _essence(value) if isinstance(value, Mapping) else value
        for key, value in said.items()
        if key not in _OF_FILES and value is not None and value is not False
    }


def describe_words(model: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """How tokens become text and text tokens, and which of them end one."""
    return {"sha256": _tokenizer_digest(tokenizer), "ends": sorted(end_tokens(model, tokenizer))}


def _tokenizer_digest(tokenizer: Any) -> str | None:
    if tokenizer is None:
        return None
    fast: Any = getattr(tokenizer, "backend_tokenizer", None)
    said: Any = tokenizer.get_vocab()
    if hasattr(fast, "to_str"):
        said = json.loads(fast.to_str())
        for name in _OF_CALLS:
            said.pop(name, None)
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def end_tokens(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text, as the tokenizer and the generation config name them."""
    config = getattr(model, "generation_config", None)
    found: set[int] = set()
    for value in (getattr(config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)):
        found |= set(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(found)
