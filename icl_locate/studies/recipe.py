"""What a saved number carries: where it came from."""

import json
import math
import re
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import partial
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy import generic, ndarray
from torch import Tensor, nn

from icl_locate.interventions.base import Intervention
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import fingerprint, weights_digest
from icl_locate.models.loading import EMBEDDED, embedded_directory
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.saved import Saved
from icl_locate.studies.functions import describe_class, describe_function
from icl_locate.studies.machine import describe_run


def describe_model(model: Model) -> dict[str, Any]:
    """The model as it is now, its tokenizer, and what ran it: versions, commit and machine."""
    return {
        **describe_weights(
            str(getattr(model.cfg, "model_name", "")), model.original_model, model.tokenizer
        ),
        "architecture": str(getattr(model.cfg, "architecture", "")),
        "fingerprint": fingerprint(model),
        **describe_run(weight.device for weight in model.original_model.parameters()),
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
    """The parts of an intervention: equal ones are described alike, others apart.

    As far as they tell: of an object whose class has nothing to say of it only the class is known.

    >>> from icl_locate._types import Segment
    >>> from icl_locate.interventions.layers import only_layer
    >>> from icl_locate.interventions.masks import ContextMask
    >>> parts = describe_intervention(ContextMask({Segment.QUERY}, only_layer(2)))
    >>> [(part["kind"], part["hide"], part["layers"]["start"]) for part in parts]
    [('ContextMask', ['QUERY'], 2)]
    """
    (found,) = describe_interventions([intervention])
    return found


def describe_interventions(interventions: Iterable[Intervention]) -> list[list[dict[str, Any]]]:
    """Several of them: what they share, such as the means that stand in for heads, is read once."""
    seen = _Seen()
    return [
        sorted(
            (_describe(part, seen) for part in intervention.parts),
            key=lambda part: json.dumps(part, sort_keys=True),
        )
        for intervention in interventions
    ]


def describe_value(value: Any) -> Any:
    """A value as JSON holds it: sets in one order, arrays by digests, functions by their code.

    >>> describe_value({3, 1, 2}), describe_value(float("-inf")), describe_value(len)
    ([1, 2, 3], '-inf', {'function': 'builtins.len'})
    """
    return _describe(value, _Seen())


@dataclass
class _Seen:
    """What was described already.

    Attributes:
        values: arrays and results, which are read once, each with its description; they are held,
            so that no other takes their number.
        functions: of the outermost function that is being described, those inside, by their order.
    """

    values: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    functions: dict[Any, int] = field(default_factory=dict)


def _describe(value: Any, seen: _Seen) -> Any:
    """A value; arrays and results that were ``seen`` are not read again."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Tensor, ndarray, Saved, nn.Module)):
        if id(value) not in seen.values:
            seen.values[id(value)] = value, _describe_once(value, seen)
        return seen.values[id(value)][1]
    if isinstance(value, generic):
        return _describe(value.item(), seen)
    if isinstance(value, Mapping):
        return {str(key): _describe(item, seen) for key, item in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return [_describe(item, seen) for item in value]
    if isinstance(value, AbstractSet) and not is_dataclass(value):
        found = [_describe(item, seen) for item in value]
        return sorted(found, key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, partial):
        return {"partial": _describe([value.func, value.args, value.keywords], seen)}
    if callable(value) and hasattr(value, "__qualname__"):
        outermost = not seen.functions
        try:
            return describe_function(value, lambda item: _describe(item, seen), seen.functions)
        finally:
            if outermost:
                seen.functions.clear()
    return _describe_object(value, seen)


def _describe_once(value: Tensor | ndarray | Saved | nn.Module, seen: _Seen) -> Any:
    if isinstance(value, (Saved, nn.Module)):
        return _describe_object(value, seen)
    if isinstance(value, ndarray) and value.dtype.hasobject:
        return {"shape": list(value.shape), "items": _describe(value.ravel().tolist(), seen)}
    return _describe_array(value)


def _describe_object(value: object, seen: _Seen) -> dict[str, Any]:
    """A dataclass by its fields; any other object by what its class has it say, if it does."""
    kind = type(value)
    found: dict[str, Any] = {"kind": kind.__qualname__}
    found |= describe_class(kind, lambda item: _describe(item, seen))
    if isinstance(value, nn.Module):
        return found | {"weights": weights_digest(value), "sha256": digest([repr(value)])}
    if is_dataclass(value):
        names = dict.fromkeys(field.name for field in fields(value))
        if "__dataclass_fields__" not in vars(kind):  # it may hold what no field says
            names |= dict.fromkeys(getattr(value, "__dict__", {}))
        return found | {name: _describe(getattr(value, name), seen) for name in names}
    if isinstance(value, re.Pattern):  # its own text is cut
        return found | {"pattern": _describe([value.pattern, value.flags], seen)}
    if isinstance(value, (SimpleNamespace, Namespace)) or "class" in found:
        # Numbers are rounded in a text, so that it would not tell them apart.
        found |= _describe(getattr(value, "__dict__", {}), seen)
    says = repr(value)
    tells = " at 0x" not in says and "..." not in says  # an address, or what is left out
    return found | ({"sha256": digest([says])} if tells else {"says": None})


def _describe_array(value: Tensor | ndarray) -> dict[str, Any]:
    """Shape, type and digest of numbers."""
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        kind = str(value.dtype).removeprefix("torch.")
    else:
        raw, kind = np.ascontiguousarray(value), str(value.dtype)
    return {"shape": list(value.shape), "dtype": kind, "sha256": sha256(raw.tobytes()).hexdigest()}


def prompts_digest(prompts: Iterable[Prompts]) -> str:
    """A hash of prompts' tokens, segments and targets, of all their forms."""
    forms = (form for some in prompts for form in some.forms)
    return digest(str((p.tokens.tolist(), p.segments.tolist(), p.target_tokens)) for p in forms)


def digest(texts: Iterable[str]) -> str:
    """A hash of texts in their order."""
    return sha256("\0".join(texts).encode()).hexdigest()
