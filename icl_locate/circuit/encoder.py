"""Sentence encoders: features of texts alone, by any encoder that transformers loads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.signatures import check_fields, checked, whole
from icl_locate.errors import ModelError, NumericalError
from icl_locate.models.trust import NO_CODE, check_weights

Pooling = Literal["pooler", "mean"]


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder of sentences, loaded when it is first asked, each time anew.

    Attributes:
        name: of the Hub, or a local directory, such as "BAAI/bge-m3", which Cho et al. use.
        pooling: "pooler", the model's own pooled output, as they take it; or "mean", the last
            states' mean over a text's tokens, for models that have none.
        batch_size: texts that run at once.
        device: such as "cuda"; ``None`` means the CPU.
        revision: of the model on the Hub.

    Raises:
        ModelError: if a field is out of range.
    """

    name: str | Path
    pooling: Pooling | str = "pooler"
    batch_size: int = 32
    device: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, ModelError, batch_size=whole(1))

    @property
    def said(self) -> dict[str, Any]:
        """What it is, for recipes."""
        return {"name": str(self.name), "pooling": self.pooling, "revision": self.revision}

    @checked(ModelError)
    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "text d"]:
        """The features of texts, each as if it stood alone; as float32 on the CPU.

        Texts longer than the encoder's context are cut there.

        Raises:
            ModelError: if there is no such model, its weights are no safetensors, or it has no
                pooled output where that is asked for.
            NumericalError: if it gives NaN.
        """
        if not texts:
            raise ModelError("texts are empty: expected at least one to encode")
        model, tokenizer = self._load()
        found = []
        for start in range(0, len(texts), self.batch_size):
            batch = tokenizer(
                list(texts[start : start + self.batch_size]), return_tensors="pt", padding=True,
                truncation=True, max_length=_longest(model, tokenizer),
            ).to(model.device)  # fmt: skip
            found.append(self._pool(model(**batch), batch["attention_mask"]).float().cpu())
        features = torch.cat(found)
        if features.isnan().any():
            raise NumericalError(f"the encoder {str(self.name)!r} gave NaN: check its weights")
        return features

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        name = str(self.name)
        check_weights(name, self.revision)
        try:
            tokenizer = AutoTokenizer.from_pretrained(  # encoders count places from the left
                name, revision=self.revision, padding_side="right", **NO_CODE
            )
            model = AutoModel.from_pretrained(name, revision=self.revision, **NO_CODE)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"no encoder could be loaded from {name!r}: {error}; expected a Hub name or a "
                "directory with an AutoModel and its tokenizer"
            ) from error
        if tokenizer.pad_token is None:
            raise ModelError(f"the tokenizer of {name!r} has no padding token: give it one")
        return model.eval().to(self.device or "cpu"), tokenizer

    def _pool(self, output: Any, real: Tensor) -> Float[Tensor, "text d"]:
        if self.pooling == "mean":
            weights = real[..., None].to(output.last_hidden_state)
            mean: Tensor = (output.last_hidden_state * weights).sum(dim=1) / weights.sum(dim=1)
            return mean
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            raise ModelError(f"the encoder {str(self.name)!r} pools nothing: use pooling='mean'")
        found: Tensor = pooled
        return found


def _longest(model: Any, tokenizer: Any) -> int:
    """How many tokens it takes: the least of what its tokenizer and its positions allow."""
    places = getattr(model.config, "max_position_embeddings", None)
    if places is None:
        return int(tokenizer.model_max_length)
    pad = getattr(model.config, "pad_token_id", None) or 0
    offset = pad + 1 if "roberta" in str(model.config.model_type) else 0
    return min(int(tokenizer.model_max_length), int(places) - offset)
