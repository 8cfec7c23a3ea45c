"""What a saved number carries: where it came from."""

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from icl_locate.models.fingerprint import fingerprint
from icl_locate.models.loading import EMBEDDED, embedded_directory
from icl_locate.prompts.tokens import Prompts

_PACKAGES = ("icl_locate", "torch", "transformers", "transformer_lens", "sacrebleu")


def describe_model(model: TransformerBridge) -> dict[str, Any]:
    """The model as it is now, its tokenizer, and the versions of what ran it."""
    return {
        **describe_weights(
            str(getattr(model.cfg, "model_name", "")), model.original_model, model.tokenizer
        ),
        "architecture": str(getattr(model.cfg, "architecture", "")),
        "fingerprint": fingerprint(model),
        "versions": versions(),
    }


def describe_weights(name: str, model: Any, tokenizer: Any) -> dict[str, Any]:
    """A Hugging Face model of a name, and its tokenizer, or ``None`` if it has none."""
    vocabulary = None
    if tokenizer is not None:
        vocabulary = digest([json.dumps(tokenizer.get_vocab(), sort_keys=True)])
    return {
        "model": EMBEDDED if name == str(embedded_directory()) else name,
        "revision": getattr(model.config, "_commit_hash", None),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "vocabulary_sha256": vocabulary,
    }


def versions(*more: str) -> dict[str, str]:
    """The versions of what ran, and of more packages."""
    return {package: version(package) for package in (*_PACKAGES, *more)}


def prompts_digest(prompts: Iterable[Prompts]) -> str:
    """A hash of prompts' tokens, segments and targets."""
    return digest(str((p.tokens.tolist(), p.segments.tolist(), p.target_tokens)) for p in prompts)


def digest(texts: Iterable[str]) -> str:
    """A hash of texts in their order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
