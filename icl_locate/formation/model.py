"""The model: two layers of attention, nothing else, on five tokens; a plain torch module."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from icl_locate.checks.contents import check_table
from icl_locate.checks.signatures import check_fields, whole
from icl_locate.errors import TaskError
from icl_locate.formation.clamps import Clamp
from icl_locate.formation.task import N_TOKENS, FormationTask, right_columns

_BASE = 10_000.0  # of the rotary angles
_CUT = 0.87962566103423978  # the deviation of a standard normal that is cut at 2


@dataclass(frozen=True)
class FormationShape:
    """The model's sizes; the defaults are those of Singh et al. (2024).

    Attributes:
        d_model: width of the residual stream, an even number for each head.
        n_heads: of each of the two layers.

    Raises:
        TaskError: if the heads do not share the width in even parts.
    """

    d_model: int = 64
    n_heads: int = 8

    def __post_init__(self) -> None:
        check_fields(self, TaskError, d_model=whole(2, 4096), n_heads=whole(1, 512))
        if self.d_model % (2 * self.n_heads):
            raise TaskError(
                f"d_model is {self.d_model}: expected a multiple of {2 * self.n_heads}, twice "
                "n_heads, since rotary positions turn pairs of numbers"
            )

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.d_model // self.n_heads


@dataclass
class Pass:
    """What a pass through the model computed. Of layer 1 only the query's row.

    Attributes:
        patterns, values: of both layers, as they acted: clamped where a clamp was put.
        scores: of layer 1, before the softmax.
        stream: what layer 1 adds to.
        mixed: what its heads give before the output projection.
        logits: of the query's label.
    """

    patterns: tuple[Float[Tensor, "batch head query_pos key_pos"], ...]
    values: tuple[Float[Tensor, "batch head pos d_head"], ...]
    scores: Float[Tensor, "batch head key_pos"]
    stream: Float[Tensor, "batch d_model"]
    mixed: Float[Tensor, "batch head d_head"]
    logits: Float[Tensor, "batch label"]


class FormationLayer(nn.Module):
    """A layer's weights: its norm, its heads' queries, keys and values, and its output."""

    def __init__(self, shape: FormationShape, generator: torch.Generator) -> None:
        super().__init__()
        width = shape.d_model
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (
            _normal(generator, (width, width), width**-0.5) for _ in range(4)
        )


class FormationModel(nn.Module):
    """Two layers of causal attention with norms before them and at the end, rotary positions.

    Items are embedded by a linear layer of their vectors, labels by a table. Initial weights are
    as in the authors' code: normal, cut at two deviations, of variance 1 / inputs (the labels'
    0.02 times a cut normal); biases 0.

    Args:
        task: whose vectors are embedded.
        shape: the model's sizes; ``None`` means those of the paper.
        seed: of the initial weights.
    """

    vectors: Tensor

    def __init__(
        self, task: FormationTask, shape: FormationShape | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.task, self.shape = task, shape or FormationShape()
        width, draws = self.shape.d_model, torch.Generator().manual_seed(seed)
        self.register_buffer("vectors", task.vectors[: task.n_classes], persistent=False)
        self.items = _normal(draws, (width, task.n_features), task.n_features**-0.5)
        self.item_bias = nn.Parameter(torch.zeros(width))
        self.labels = _normal(draws, (task.n_labels, width), 0.02 * _CUT)
        self.first = FormationLayer(self.shape, draws)
        self.second = FormationLayer(self.shape, draws)
        self.norm = nn.LayerNorm(width)
        self.answer = _normal(draws, (task.n_labels, width), width**-0.5)
        self.answer_bias = nn.Parameter(torch.zeros(task.n_labels))

    @classmethod
    def of(
        cls, task: FormationTask, shape: FormationShape, weights: Float[Tensor, "weight"]
    ) -> "FormationModel":
        """A model with these weights.

        Args:
            weights: all of them, in the order of ``parameters()``.

        Raises:
            ResultError: if there are more or fewer than the model has.
        """
        model = cls(task, shape)
        check_table("weights", weights, (sum(p.numel() for p in model.parameters()),))
        nn.utils.vector_to_parameters(weights.float().clone(), model.parameters())
        return model

    @property
    def weights(self) -> Float[Tensor, "weight"]:
        """A copy of all weights, in the order of ``parameters()``."""
        return nn.utils.parameters_to_vector(self.parameters()).detach()

    def embeddings(
        self, vectors: Float[Tensor, "class n_features"] | None = None
    ) -> Float[Tensor, "token d_model"]:
        """What tokens are embedded as: the labels, then the classes.

        Args:
            vectors: of the classes; ``None`` means those of training.
        """
        known = self.vectors if vectors is None else vectors
        return torch.cat([self.labels, F.linear(known, self.items, self.item_bias)])

    def forward(
        self, tokens: Int[Tensor, "batch pos"], clamps: Sequence[Clamp] = ()
    ) -> Float[Tensor, "batch label"]:
        """The logits of the query's label, on sequences of training's classes."""
        return self.run(tokens, self.embeddings(), clamps).logits

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        table: Float[Tensor, "token d_model"],
        clamps: Sequence[Clamp] = (),
    ) -> Pass:
        """A pass, with all that it computed.

        Args:
            table: the embeddings of the tokens, as `embeddings` gives them.
        """
        right, embedded = right_columns(tokens), F.embedding(tokens, table)
        layer, normed = self.first, self.first.norm(embedded)
        scores = self._scores(layer, normed, normed) + _future(N_TOKENS)
        first = self._attend(0, scores, F.linear(normed, layer.value), right, clamps)
        mixed = (first[0] @ first[1]).transpose(1, 2).flatten(2)
        looked = stream = embedded + F.linear(mixed, layer.output)
        for clamp in clamps:
            looked, stream = clamp.on_streams(embedded, looked, stream)
        layer, normed = self.second, self.second.norm(stream)
        seen = normed if looked is stream else layer.norm(looked)
        scores = self._scores(layer, seen[:, -1:], seen)
        second = self._attend(1, scores, F.linear(normed, layer.value), right, clamps)
        scores, stream = scores.squeeze(2), stream[:, -1]
        mixed = (second[0] @ second[1]).squeeze(2)
        logits = self.answers(stream, F.linear(mixed.flatten(1), layer.output))
        for clamp in clamps:
            logits = clamp.on_logits(logits, scores, tokens)
        patterns, values = zip(first, second, strict=True)
        return Pass(patterns, values, scores, stream, mixed, logits)

    def answers(
        self, stream: Float[Tensor, "*batch d_model"], added: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch label"]:
        """The logits, from what layer 1 adds to and what it adds."""
        return F.linear(self.norm(stream + added), self.answer, self.answer_bias)

    def _scores(self, layer: FormationLayer, rows: Tensor, columns: Tensor) -> Tensor:
        """What the softmax gets; the rows are the last ones."""
        query: Tensor = _turned(self._split(F.linear(rows, layer.query)))
        key = _turned(self._split(F.linear(columns, layer.key)))
        return query @ key.transpose(-1, -2) / math.sqrt(self.shape.d_head)

    def _attend(
        self, layer: int, scores: Tensor, value: Tensor, right: Tensor, clamps: Sequence[Clamp]
    ) -> tuple[Tensor, Tensor]:
        """The pattern and the values of a layer, as they act."""
        pattern, value = scores.softmax(dim=-1), self._split(value)
        for clamp in clamps:
            pattern = clamp.on_pattern(layer, pattern, right)
            value = clamp.on_value(layer, value)
        return pattern, value

    def _split(self, flat: Float[Tensor, "batch pos d_model"]) -> Tensor:
        """Head by head: batch, head, position, numbers."""
        return flat.view(*flat.shape[:2], self.shape.n_heads, -1).transpose(1, 2)


@lru_cache(maxsize=8)
def _future(n: int) -> Float[Tensor, "query_pos key_pos"]:
    """What is added to scores so that no row sees a later one."""
    return torch.full((n, n), float("-inf")).triu(1)


def _turned(rows: Float[Tensor, "batch head pos d_head"]) -> Float[Tensor, "batch head pos d_head"]:
    """Rotary positions: pairs of numbers turned by the angles of the last positions."""
    cos, sin = _angles(rows.shape[-2], rows.shape[-1])
    across = torch.stack([-rows[..., 1::2], rows[..., ::2]], dim=-1).flatten(-2)
    return rows * cos + across * sin


@lru_cache(maxsize=8)
def _angles(n_rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, ``[pos, d_head]``, of the last rows of a sequence."""
    places = torch.arange(N_TOKENS - n_rows, N_TOKENS, dtype=torch.float64)
    speeds = _BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = (places[:, None] * speeds).repeat_interleave(2, dim=-1)
    return angles.cos().float(), angles.sin().float()


def _normal(generator: torch.Generator, shape: tuple[int, int], deviation: float) -> nn.Parameter:
    """Weights with this deviation: normal, cut at two deviations of the uncut one."""
    uncut = deviation / _CUT
    drawn = torch.empty(shape)
    nn.init.trunc_normal_(drawn, std=uncut, a=-2 * uncut, b=2 * uncut, generator=generator)
    return nn.Parameter(drawn)
