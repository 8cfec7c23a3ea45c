"""What a token costs in a model: counted from its configuration, without its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM

from icl_locate.checks.arguments import check_count, refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import ModelError
from icl_locate.models.loading import loading_error, resolve_dtype
from icl_locate.models.names import find_model
from icl_locate.models.trust import NO_CODE

_PER_WEIGHT = 2  # a multiplication and an addition


@dataclass(frozen=True)
class ModelCosts:
    """The sizes of a model that decide what a token costs.

    Attributes:
        name: of the model.
        layer_weights: for each layer, the weights that every token is multiplied with.
        unembedding_weights: those that every token with logits is multiplied with.
        n_heads, n_kv_heads, d_head: query heads, heads of keys and values, and their width.
    """

    name: str
    layer_weights: tuple[int, ...]
    unembedding_weights: int
    n_heads: int
    n_kv_heads: int
    d_head: int

    @property
    def n_layers(self) -> int:
        """The number of layers."""
        return len(self.layer_weights)

    @classmethod
    @checked(ModelError)
    def of(
        cls, model: str | Path | TransformerBridge | Any, *, revision: str | None = None
    ) -> "ModelCosts":
        """The costs of a model; of a name or directory only the configuration is read.

        Args:
            model: a name on the Hugging Face Hub, a local directory, "embedded", a
                TransformerBridge, or a Hugging Face configuration.
            revision: of a name on the Hub.

        Raises:
            ModelError: if there is no such model, or not every token passes the same weights (a
                mixture of experts).
        """
        name, config = _find_config(model, revision)
        try:
            with torch.device("meta"):
                empty = AutoModelForCausalLM.from_config(config, **NO_CODE)
        except (ValueError, KeyError) as error:
            raise loading_error(name, error) from error
        config = config.get_text_config(decoder=True)
        layers = _find_layers(empty, int(config.num_hidden_layers))
        n_heads = int(config.num_attention_heads)
        d_head = getattr(config, "head_dim", None) or int(config.hidden_size) // n_heads
        grouped = getattr(config, "num_key_value_heads", None) or n_heads
        multi_query = getattr(config, "multi_query", False)
        if getattr(config, "new_decoder_architecture", False):  # Falcon's, which asks nothing else
            grouped, multi_query = config.num_kv_heads, False
        return cls(
            name=name,
            layer_weights=tuple(_count_weights(layer) for layer in layers),
            unembedding_weights=int(empty.get_output_embeddings().weight.numel()),
            n_heads=n_heads,
            n_kv_heads=1 if multi_query else int(grouped),
            d_head=int(d_head),
        )

    @checked(ModelError)
    def layer_operations(self, layer: int, n_rows: int, n_keys: int) -> int:
        """Floating-point operations of a layer for ``n_rows`` tokens that see ``n_keys`` each.

        Products with weights, and the two of attention, as they are computed: all keys of every
        row, masked or not. Norms, activations and the softmax are left out.
        """
        check_count("layer", layer, least=0, most=self.n_layers - 1, error=ModelError)
        attention = 2 * self.n_heads * self.d_head * n_keys
        return _PER_WEIGHT * n_rows * (self.layer_weights[layer] + attention)

    @checked(ModelError)
    def unembedding_operations(self, n_rows: int) -> int:
        """Floating-point operations of the logits of ``n_rows`` tokens."""
        return _PER_WEIGHT * n_rows * self.unembedding_weights

    @checked(ModelError)
    def cache_bytes(self, n_keys: int, dtype: torch.dtype | str = torch.float32) -> int:
        """What one layer's keys and values take for ``n_keys`` positions."""
        return 2 * n_keys * self.n_kv_heads * self.d_head * resolve_dtype(dtype).itemsize


def _find_config(model: Any, revision: str | None) -> tuple[str, Any]:
    if isinstance(model, TransformerBridge):
        name = str(getattr(model.cfg, "model_name", ""))
        return name, model.original_model.config
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


def _count_weights(layer: nn.Module) -> int:
    if any(weights.ndim > 2 for weights in layer.parameters()) or any(
        isinstance(module, nn.ModuleList) for module in layer.modules()
    ):
        raise ModelError(
            f"{type(layer).__name__} holds several experts, of which each token passes some: their "
            "operations cannot be counted from sizes"
        )
    return sum(weights.numel() for weights in layer.parameters() if weights.ndim == 2)
