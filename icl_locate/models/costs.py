"""What a token costs in a model, in operations and in memory: counted from shapes, without weights.

The only such count in the package: savings, the estimate of a sweep and token budgets read it.
"""

import weakref
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM

from icl_locate.checks.arguments import check_count, refuse
from icl_locate.checks.signatures import checked, whole
from icl_locate.errors import ModelError
from icl_locate.models.bridge import Model
from icl_locate.models.loading import loading_error, resolve_dtype
from icl_locate.models.names import find_model
from icl_locate.models.trust import NO_CODE

_PER_WEIGHT = 2  # a multiplication and an addition

_known: "weakref.WeakKeyDictionary[Model, ModelCosts]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class ModelCosts:
    """The sizes of a model that decide what a token costs.

    Attributes:
        name: of the model.
        layer_weights: for each layer, the weights that every token is multiplied with.
        unembedding_weights: those that every token with logits is multiplied with.
        n_heads, n_kv_heads, d_head: query heads, heads of keys and values, and their width.
        d_model: width of the residual stream.
        widest: the most numbers that one of a layer's products gives for a token.
        n_ctx: the most positions of a text; ``None`` where the configuration sets no limit.
        has_experts: whether each token passes some of several experts; then ``layer_weights`` and
            ``widest`` are upper bounds.
    """

    name: str
    layer_weights: tuple[int, ...]
    unembedding_weights: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    widest: int
    n_ctx: int | None = None
    has_experts: bool = False

    @property
    def n_layers(self) -> int:
        """The number of layers."""
        return len(self.layer_weights)

    @classmethod
    @checked(ModelError)
    def of(
        cls,
        model: str | Path | Model | Any,
        *,
        revision: str | None = None,
        at_most: bool = False,
    ) -> "ModelCosts":
        """The costs of a model; of a name or directory only the configuration is read.

        A bridge is looked at once: later calls cost nothing, and none reads a file.

        Args:
            model: a name on the Hugging Face Hub, a local directory, "embedded", a
                TransformerBridge, or a Hugging Face configuration.
            revision: of a name on the Hub.
            at_most: whether a mixture of experts gets upper bounds, else it is refused.

        Raises:
            ModelError: if there is no such model, or not every token passes the same weights (a
                mixture of experts) and ``at_most`` is False.
        """
        found = _known.get(model) if isinstance(model, TransformerBridge) else None
        if found is None:
            name, empty = _build_empty(model, revision)
            found = _count(name, empty)
            if isinstance(model, TransformerBridge):
                _known[model] = found
        if found.has_experts and not at_most:
            raise ModelError(
                f"a layer of {found.name} holds several experts, of which each token passes some: "
                "their operations cannot be counted from sizes; at_most=True gives upper bounds"
            )
        return found

    @checked(ModelError)
    def layer_operations(self, layer: int, n_rows: int, n_keys: int) -> int:
        """Floating-point operations of a layer for ``n_rows`` tokens that see ``n_keys`` each.

        Products with weights, and the two of attention, as they are computed: all keys of every
        row, masked or not. Norms, activations and the softmax are left out.
        """
        check_count("layer", layer, least=0, most=self.n_layers - 1, error=ModelError)
        attention = 2 * self.n_heads * self.d_head * n_keys
        return _PER_WEIGHT * n_rows * (self.layer_weights[layer] + attention)

    @checked(ModelError, n_rows=whole(0))
    def projection_operations(self, n_rows: int) -> int:
        """Floating-point operations of a layer's queries, keys and values for ``n_rows`` tokens."""
        return (
            _PER_WEIGHT * n_rows * self.d_model * (self.n_heads + 2 * self.n_kv_heads) * self.d_head
        )

    @checked(ModelError)
    def decoding_operations(
        self, layer: int, n_rows: int, n_keys: int, n_steps: int, *, n_new: int = 1
    ) -> int:
        """Floating-point operations of a layer for ``n_steps`` steps of ``n_rows`` tokens each.

        Args:
            n_keys: those before the first step.
            n_new: keys that each step adds, before its tokens see them.
        """
        if not n_steps:
            return 0
        first = self.layer_operations(layer, n_rows, n_keys + n_new)
        last = self.layer_operations(layer, n_rows, n_keys + n_steps * n_new)
        return n_steps * (first + last) // 2  # they rise evenly

    @checked(ModelError)
    def unembedding_operations(self, n_rows: int) -> int:
        """Floating-point operations of the logits of ``n_rows`` tokens."""
        return _PER_WEIGHT * n_rows * self.unembedding_weights

    @checked(ModelError)
    def cache_bytes(self, n_keys: int, dtype: torch.dtype | str = torch.float32) -> int:
        """What one layer's keys and values take for ``n_keys`` positions."""
        return 2 * n_keys * self.n_kv_heads * self.d_head * resolve_dtype(dtype).itemsize

    @checked(ModelError)
    def token_bytes(self, n_keys: int, dtype: torch.dtype | str = torch.float32) -> int:
        """What a token in flight takes, where each may see ``n_keys``: rather too much than less.

        The activations of one layer, a row of attention weights in every head, and keys and values
        in all layers' caches. Weights count as often as eager attention holds them, in float32 and
        in ``dtype``; keys and values twice, as they are copied when runs part. It is one to three
        times the peak of a forward pass, divided by its tokens; logits are left out.
        """
        size = resolve_dtype(dtype).itemsize
        heads = self.n_heads * self.d_head
        activations = 8 * self.d_model + 8 * heads + 4 * self.widest
        weights = (self.n_heads + 1) * n_keys * (4 * size + 2 * max(size, 4))  # a mask is one more
        cache = 2 * self.n_layers * self.cache_bytes(1, dtype)
        return size * activations + weights + cache


def _build_empty(model: Any, revision: str | None) -> tuple[str, nn.Module]:
    """The name of a model, and the model itself on no device, without weights."""
    name, config = _find_config(model, revision)
    try:
        with torch.device("meta"):
            if isinstance(model, TransformerBridge):  # its class may stand outside transformers
                return name, type(model.original_model)(deepcopy(config))
            return name, AutoModelForCausalLM.from_config(config, **NO_CODE)
    except Exception as error:  # a model's own code raises anything
        raise loading_error(name, error) from error


def _count(name: str, model: Any) -> ModelCosts:
    config = model.config.get_text_config(decoder=True)
    n_layers, n_heads, d_model = (
        _find_size(name, config, size)
        for size in ("num_hidden_layers", "num_attention_heads", "hidden_size")
    )
    layers = _find_layers(model, n_layers)
    n_experts = getattr(config, "num_experts_per_tok", None)
    counted = [_count_weights(layer, n_experts) for layer in layers]
    return ModelCosts(
        name=name,
        layer_weights=tuple(weights for weights, _ in counted),
        unembedding_weights=int(model.get_output_embeddings().weight.numel()),
        n_heads=n_heads,
        n_kv_heads=_count_kv_heads(config, n_heads),
        d_head=int(getattr(config, "head_dim", None) or d_model // n_heads),
        d_model=d_model,
        widest=max(widest for _, widest in counted),
        n_ctx=getattr(config, "max_position_embeddings", None),
        has_experts=any(map(_has_experts, layers)),
    )


def _find_size(name: str, config: Any, size: str) -> int:
    found = getattr(config, size, None)
    if not isinstance(found, int):
        refuse(f"{size} of {name}", found, "a whole number, the same for all layers", ModelError)
    return found


def _find_config(model: Any, revision: str | None) -> tuple[str, Any]:
    if isinstance(model, TransformerBridge):
        return str(getattr(model.cfg, "model_name", "")), model.original_model.config
    if hasattr(model, "get_text_config"):
        return str(model.name_or_path or model.model_type), model
    if not isinstance(model, (str, Path)) or not str(model):
        expected = "a name, a directory, a TransformerBridge or a configuration of transformers"
        refuse("model", model, expected, ModelError)
    where = find_model(model, revision)
    try:
        return str(model), AutoConfig.from_pretrained(where, revision=revision, **NO_CODE)
    except Exception as error:  # a damaged directory makes its readers raise anything
        raise loading_error(str(model), error) from error


def _find_layers(model: nn.Module, n_layers: int) -> nn.ModuleList:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return module
    raise ModelError(
        f"{type(model).__name__} has no single stack of {n_layers} layers: expected a decoder-only "
        "transformer"
    )


def _count_kv_heads(config: Any, n_heads: int) -> int:
    if getattr(config, "new_decoder_architecture", False):  # Falcon's, which asks nothing else
        return int(config.num_kv_heads)
    if getattr(config, "multi_query", False):
        return 1
    return int(getattr(config, "num_key_value_heads", None) or n_heads)


def _has_experts(layer: nn.Module) -> bool:
    return any(weights.ndim > 2 for weights in layer.parameters()) or any(
        isinstance(module, nn.ModuleList) for module in layer.modules()
    )


def _count_weights(layer: nn.Module, n_experts: int | None) -> tuple[int, int]:
    """The weights that a token passes at most, and the most numbers that a product makes of it.

    Args:
        n_experts: that a token passes, if the configuration says it.
    """
    total, widest = 0, 0
    for weights in layer.parameters():
        if weights.ndim < 2:
            continue
        each = 1 if weights.ndim == 2 else min(n_experts or len(weights), len(weights))
        total += weights[0].numel() * (each if weights.ndim > 2 else len(weights))
        widest = max(widest, each * max(weights.shape[-2:]))
    return total, widest
