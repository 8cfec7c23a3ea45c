"""What a saved number carries: where it came from."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib.metadata import version
from typing import Any

from torch import Tensor

from icl_locate.interventions.base import Intervention
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import fingerprint
from icl_locate.models.loading import EMBEDDED, embedded_directory
from icl_locate.prompts.tokens import Prompts

_PACKAGES = ("icl_locate", "torch", "transformers", "transformer_lens", "sacrebleu")


def describe_model(model: Model) -> dict[str, Any]:
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


def describe_intervention(intervention: Intervention) -> list[dict[str, Any]]:
    """The parts of an intervention, so that equal ones, and no others, are described alike.

    >>> from icl_locate._types import Segment
    >>> from icl_locate.interventions.layers import only_layer
    >>> from icl_locate.interventions.masks import ContextMask
    >>> parts = describe_intervention(ContextMask({Segment.QUERY}, only_layer(2)))
    >>> [(part["kind"], part["hide"], part["layers"]["start"]) for part in parts]
    [('ContextMask', ['QUERY'], 2)]
    """
    parts = [describe_value(part) for part in intervention.parts]
    return sorted(parts, key=lambda part: json.dumps(part, sort_keys=True))


def describe_value(value: Any) -> Any:
    """A value as JSON holds it, whatever order its sets have; tensors by their digest."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        data = value.detach().cpu().double().contiguous().numpy().tobytes()
        return {"shape": list(value.shape), "sha256": hashlib.sha256(data).hexdigest()}
    if is_dataclass(value):
        held = {field.name: describe_value(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__, **held}
    if isinstance(value, Mapping):
        return {str(key): describe_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe_value(item) for item in value]
    if isinstance(value, AbstractSet):
        return sorted(map(describe_value, value), key=str)
    return getattr(value, "__qualname__", None) or repr(value)


def versions(*more: str) -> dict[str, str]:
    """The versions of what ran, and of more packages."""
    return {package: version(package) for package in (*_PACKAGES, *more)}


def prompts_digest(prompts: Iterable[Prompts]) -> str:
    """A hash of prompts' tokens, segments and targets."""
    return digest(str((p.tokens.tolist(), p.segments.tolist(), p.target_tokens)) for p in prompts)


def digest(texts: Iterable[str]) -> str:
    """A hash of texts in their order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
