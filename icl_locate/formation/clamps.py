"""Clamps: activations that are fixed at every step of training and evaluation, as values.

A clamp says what stands in for an activation. Gradients flow around it, and through what the given
values were computed from, but not through what they took the place of.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icl_locate.checks.arguments import check_items, refuse
from icl_locate.checks.signatures import check_fields, whole
from icl_locate.errors import TaskError
from icl_locate.formation.task import LABEL_COLUMNS

N_LAYERS = 2
ABSENT = -1e9
"""The logit of a label that is not in the context, under a `CopyClamp`."""

Pattern = Float[Tensor, "batch head query_pos key_pos"]
Stream = Float[Tensor, "batch pos d_model"]


@dataclass(frozen=True)
class Clamp:
    """The base of all clamps: places where one may act. Here nothing is changed.

    Layers are 0 and 1, the paper's 1 and 2. Of layer 1 only the query's row is computed: no other
    reaches the answer.
    """

    @property
    def heads(self) -> Set[tuple[int, int]]:
        """The (layer, head) pairs that it names."""
        return frozenset()

    def on_pattern(self, layer: int, pattern: Pattern, right: Int[Tensor, "batch"]) -> Pattern:
        """What stands in for a layer's attention, after its softmax.

        Args:
            right: the columns of the right labels.
        """
        del layer, right
        return pattern

    def on_value(
        self, layer: int, value: Float[Tensor, "batch head pos d_head"]
    ) -> Float[Tensor, "batch head pos d_head"]:
        """What stands in for a layer's values."""
        del layer
        return value

    def on_streams(
        self, embedded: Stream, patterns: Stream, values: Stream
    ) -> tuple[Stream, Stream]:
        """What layer 1 gets from layer 0: for its patterns, and for its values and what it adds to.

        Args:
            embedded: what layer 0 got.
        """
        del embedded
        return patterns, values

    def on_logits(
        self,
        logits: Float[Tensor, "batch label"],
        scores: Float[Tensor, "batch head key_pos"],
        tokens: Int[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch label"]:
        """What stands in for the logits of the query's label.

        Args:
            scores: of the query's row in layer 1, before the softmax.
        """
        del scores, tokens
        return logits


@dataclass(frozen=True)
class PatternClamp(Clamp):
    """One head attends as it is told.

    Attributes:
        layer, head: which one.
        pattern: "previous_token": every row to the one before it, row 0 to itself; or "match": the
            query's row to the right label, the other rows as they are.

    Raises:
        TaskError: if there is no such layer or pattern.
    """

    layer: int
    head: int
    pattern: Literal["previous_token", "match"] | str = "previous_token"

    def __post_init__(self) -> None:
        check_fields(self, TaskError, layer=whole(0, N_LAYERS - 1))

    @property
    def heads(self) -> Set[tuple[int, int]]:
        """The one."""
        return frozenset({(self.layer, self.head)})

    def on_pattern(self, layer: int, pattern: Pattern, right: Int[Tensor, "batch"]) -> Pattern:
        """Rows of zeros and a one."""
        if layer != self.layer:
            return pattern
        n_rows, n_columns = pattern.shape[-2:]
        chosen = _chosen(frozenset({self.head}), pattern.shape[1])
        columns = torch.arange(n_columns)
        if self.pattern == "previous_token":
            before = (columns - 1).clamp(min=0)[-n_rows:]
            return torch.where(chosen, (columns == before[:, None]).to(pattern.dtype), pattern)
        given = (columns == right[:, None, None, None]).to(pattern.dtype)
        last = torch.arange(n_rows)[:, None] == n_rows - 1
        return torch.where(chosen & last, given, pattern)


@dataclass(frozen=True)
class ValueAblation(Clamp):
    """Some heads of a layer add nothing: their values are 0.

    Attributes:
        layer: which one.
        ablated: the heads.

    Raises:
        TaskError: if there is no such layer.
    """

    layer: int
    ablated: frozenset[int]

    def __post_init__(self) -> None:
        check_fields(self, TaskError, layer=whole(0, N_LAYERS - 1))

    @property
    def heads(self) -> Set[tuple[int, int]]:
        """The ablated ones."""
        return frozenset((self.layer, head) for head in self.ablated)

    def on_value(
        self, layer: int, value: Float[Tensor, "batch head pos d_head"]
    ) -> Float[Tensor, "batch head pos d_head"]:
        """Zeros."""
        if layer != self.layer:
            return value
        return value.masked_fill(_chosen(frozenset(self.ablated), value.shape[1]), 0.0)


@dataclass(frozen=True)
class LayerClamp(Clamp):
    """The whole of layer 0 does what induction asks of it, and nothing else.

    For layer 1's patterns its output is the embedding of the token before (the first token's and
    the query's: their own); for layer 1's values, and what it adds to, the token's own embedding.
    """

    def on_streams(
        self, embedded: Stream, patterns: Stream, values: Stream
    ) -> tuple[Stream, Stream]:
        """Embeddings, shifted by one and not."""
        del patterns, values
        return torch.cat([embedded[:, :1], embedded[:, :-2], embedded[:, -1:]], dim=1), embedded


@dataclass(frozen=True)
class CopyClamp(Clamp):
    """What a head of layer 1 matches is answered: its scores at the labels are their logits.

    The scores are those before the softmax; labels that are not in the context get -1e9.

    Attributes:
        head: which one.
    """

    head: int

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    @property
    def heads(self) -> Set[tuple[int, int]]:
        """The one."""
        return frozenset({(1, self.head)})

    def on_logits(
        self,
        logits: Float[Tensor, "batch label"],
        scores: Float[Tensor, "batch head key_pos"],
        tokens: Int[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch label"]:
        """The head's scores."""
        labels, columns = tokens[:, LABEL_COLUMNS], list(LABEL_COLUMNS)
        return torch.full_like(logits, ABSENT).scatter(1, labels, scores[:, self.head, columns])


ClampName = Literal["previous_token", "layer1", "match", "copy", "one_head"]
NAMES: tuple[str, ...] = ("previous_token", "layer1", "match", "copy", "one_head")
Clamps = Iterable[str | Clamp] | str | Clamp

PAPER_CLAMPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "none": ("one_head",),
        "previous token": ("previous_token", "one_head"),
        "layer 1": ("layer1", "one_head"),
        "match": ("match", "one_head"),
        "copy": ("copy", "one_head"),
        "layer 1 and copy": ("layer1", "copy", "one_head"),
    }
)
"""What Singh et al. (2024, figure 5b) train side by side, all with one head of layer 1 left."""


def named(name: str, n_heads: int, head: int, previous_head: int) -> Clamp:
    """The clamp of a name.

    Args:
        head: of layer 1, for "match", "copy" and "one_head".
        previous_head: of layer 0, for "previous_token".
    """
    others = frozenset(range(n_heads)) - {head}
    known: Mapping[str, Clamp] = {
        "previous_token": PatternClamp(0, previous_head, "previous_token"),
        "layer1": LayerClamp(),
        "match": PatternClamp(1, head, "match"),
        "copy": CopyClamp(head),
        "one_head": ValueAblation(1, others),
    }
    return known[name]


def clamp_names(clamps: Any) -> tuple[str, ...]:
    """What clamps are called: a clamp that has no name is spelt out."""
    return tuple(one if isinstance(one, str) else repr(one) for one in _given(clamps))


def settle_clamps(
    clamps: Any, n_heads: int, head: int = 0, previous_head: int = 0
) -> tuple[Clamp, ...]:
    """Clamps as the model takes them.

    Args:
        clamps: one or several, names or values.
        n_heads: of a layer of the model.
        head, previous_head: as `named` says.

    Raises:
        TaskError: if one is unknown, names a head that is not there, or contradicts another.
    """
    found = []
    for one in _given(clamps):
        clamp = named(one, n_heads, head, previous_head) if isinstance(one, str) else one
        outside = sorted(pair for pair in clamp.heads if pair[1] >= n_heads)
        if outside:
            refuse("clamps", one, f"heads from 0 to {n_heads - 1}", TaskError)
        found.append(clamp)
    told = {(c.layer, c.head): c for c in found if isinstance(c, PatternClamp)}
    against = [c for c in found if isinstance(c, PatternClamp) and told[c.layer, c.head] != c]
    if against or len({c for c in found if isinstance(c, CopyClamp)}) > 1:
        expected = "one pattern for a head, and one head to copy"
        refuse("clamps", clamps, expected, TaskError)
    return tuple(found)


def _given(clamps: Any) -> list[str | Clamp]:
    """The clamps, one by one, each a known name or a value."""
    expected = f"clamps: {', '.join(map(repr, NAMES))}, or values such as LayerClamp()"
    alone = isinstance(clamps, (str, Clamp))
    given = [clamps] if alone else check_items("clamps", clamps, expected, error=TaskError)
    for i, one in enumerate(given):
        known = isinstance(one, Clamp) or (isinstance(one, str) and one in NAMES)
        if not known:
            refuse("clamps" if alone else f"clamps[{i}]", one, expected, TaskError)
    return given


@lru_cache(maxsize=64)
def _chosen(heads: frozenset[int], n_heads: int) -> Bool[Tensor, "head 1 1"]:
    """Which of a layer's heads are meant."""
    return torch.tensor([head in heads for head in range(n_heads)])[:, None, None]
