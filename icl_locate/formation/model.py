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
from icl_locate.checks.reprs import short_repr
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


@short_repr("logits")
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

    patterns: tuple[Float[Tensor, "batch head _ key_pos"], ...]  # 5 rows, then 1
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

    def join(self, mixed: Float[Tensor, "head d_head pos batch"]) -> Float[Tensor, "place d_model"]:
        """What the heads add, from what they give; a place is a position of a sequence."""
        return (self.output @ mixed.reshape(len(self.output), -1)).T


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
        model.fill(weights)
        return model

    @torch.no_grad()
    def fill(self, weights: Float[Tensor, "weight"]) -> None:
        """Take over all weights, in the order of ``parameters()``."""
        parameters = list(self.parameters())
        parts = torch.split(weights, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):  # each in storage of its own:
            parameter.copy_(part.view_as(parameter))  # products depend on where it is aligned

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
        right, embedded = right_columns(tokens), F.embedding(tokens.T, table)
        normed = self.first.norm(embedded)
        first = self._attend(0, normed, normed, right, clamps)
        looked = stream = embedded + self.first.join(first.mixed).view_as(embedded)
        if clamps:
            looked, stream = _reach(clamps, embedded, stream)
        normed = self.second.norm(stream)
        seen = normed if looked is stream else self.second.norm(looked)
        second = self._attend(1, seen, normed, right, clamps)
        scores, mixed = second.scores[:, :, 0].permute(2, 0, 1), second.mixed.permute(3, 2, 0, 1)
        logits = self.answers(stream[-1], mixed[:, 0])
        for clamp in clamps:
            logits = clamp.on_logits(logits, scores, tokens)
        patterns = _batched(first.pattern), _batched(second.pattern)
        values = _batched(first.value), _batched(second.value)
        return Pass(patterns, values, scores, stream[-1], mixed[:, 0], logits)

    def answers(
        self, stream: Float[Tensor, "batch d_model"], mixed: Float[Tensor, "batch head d_head"]
    ) -> Float[Tensor, "batch label"]:
        """The logits, from what layer 1 adds to and what its heads give."""
        added = F.linear(mixed.flatten(1), self.second.output)
        return F.linear(self.norm(stream + added), self.answer, self.answer_bias)

    def _attend(
        self,
        index: int,
        seen: Float[Tensor, "pos batch d_model"],
        normed: Float[Tensor, "pos batch d_model"],
        right: Int[Tensor, "batch"],
        clamps: Sequence[Clamp],
    ) -> "_Attention":
        """One layer's heads; of layer 1 only the query's row.

        Args:
            seen, normed: what patterns and values are computed from.
        """
        layer, n_rows = (self.first, N_TOKENS) if index == 0 else (self.second, 1)
        query = _turned(self._split(layer.query, seen[-n_rows:]))
        key, value = _turned(self._split(layer.key, seen)), self._split(layer.value, normed)
        scores = (key.unsqueeze(3) * query.unsqueeze(2)).sum(dim=1)
        scores = torch.add(_future(n_rows), scores, alpha=1 / math.sqrt(self.shape.d_head))
        pattern = scores.softmax(dim=1)
        if clamps:
            pattern, value = _put(clamps, index, pattern, value, right)
        mixed = (pattern.unsqueeze(1) * value.unsqueeze(3)).sum(dim=2)
        return _Attention(scores, pattern, value, mixed)

    def _split(
        self, weight: Float[Tensor, "d_model d_model"], rows: Float[Tensor, "pos batch d_model"]
    ) -> Float[Tensor, "head d_head pos batch"]:
        """A product with weights, head by head, the batch last: so short sums are fast."""
        product = weight @ rows.flatten(0, 1).T
        return product.view(self.shape.n_heads, -1, *rows.shape[:2])


@dataclass
class _Attention:
    """What a layer's heads computed, the batch last."""

    scores: Float[Tensor, "head key_pos query_pos batch"]
    pattern: Float[Tensor, "head key_pos query_pos batch"]
    value: Float[Tensor, "head d_head pos batch"]
    mixed: Float[Tensor, "head d_head query_pos batch"]


def _batched(table: Float[Tensor, "head last pos batch"]) -> Float[Tensor, "batch head pos last"]:
    """A pattern or values as clamps take them; this is its own inverse, but for the first axis."""
    return table.permute(3, 0, 2, 1)


def _put(
    clamps: Sequence[Clamp], index: int, pattern: Tensor, value: Tensor, right: Tensor
) -> tuple[Tensor, Tensor]:
    """The pattern and the values of a layer as they act."""
    pattern, value = _batched(pattern), _batched(value)
    for clamp in clamps:
        pattern, value = clamp.on_pattern(index, pattern, right), clamp.on_value(index, value)
    return pattern.permute(1, 3, 2, 0), value.permute(1, 3, 2, 0)


def _reach(clamps: Sequence[Clamp], embedded: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """What layer 1 gets: for its patterns, and for its values and what it adds to."""
    start = embedded.transpose(0, 1)
    looked = passed = stream.transpose(0, 1)
    for clamp in clamps:
        looked, passed = clamp.on_streams(start, looked, passed)
    after = passed.transpose(0, 1)
    return (after if looked is passed else looked.transpose(0, 1)), after


@lru_cache(maxsize=8)
def _future(n_rows: int) -> Float[Tensor, "key_pos query_pos 1"]:
    """What is added to scores so that the last rows see no later ones."""
    rows = torch.arange(N_TOKENS - n_rows, N_TOKENS)
    hidden = torch.arange(N_TOKENS)[:, None] > rows
    return torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))[..., None]


def _turned(table: Float[Tensor, "head d_head pos batch"]) -> Tensor:
    """Rotary positions: pairs of numbers turned by the angles of the last positions."""
    cos, sin = _angles(table.shape[2], table.shape[1])
    swapped = table.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)  # type: ignore[no-untyped-call]
    return torch.addcmul(table * cos, swapped, sin)


@lru_cache(maxsize=8)
def _angles(n_rows: int, d_head: int) -> tuple[Tensor, Tensor]:
    """Cosines, and sines with their signs, ``[d_head, pos, 1]``, of the last positions."""
    places = torch.arange(N_TOKENS - n_rows, N_TOKENS, dtype=torch.float64)
    speeds = _BASE ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    angles = (speeds[:, None] * places).repeat_interleave(2, dim=0)[..., None]
    signs = torch.tensor([-1.0, 1.0]).repeat(d_head // 2)[:, None, None]
    return angles.cos().float(), (signs * angles.sin()).float()


def _normal(generator: torch.Generator, shape: tuple[int, int], deviation: float) -> nn.Parameter:
    """Weights with this deviation: normal, cut at two deviations of the uncut one."""
    uncut = deviation / _CUT
    drawn = torch.empty(shape)
    nn.init.trunc_normal_(drawn, std=uncut, a=-2 * uncut, b=2 * uncut, generator=generator)
    return nn.Parameter(drawn)
