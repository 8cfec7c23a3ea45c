"""The task: two items with their labels, then one of the items again, whose label is asked for.

A sequence is five tokens, x1 l1 x2 l2 xq. Tokens 0, 1, ... are the labels, behind them stand the
classes of training, and behind these the classes that no training sees.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.arguments import check_choice
from icl_locate.checks.signatures import check_fields, checked, number, whole
from icl_locate.errors import TaskError

N_TOKENS = 5
"""Of a sequence."""
LABEL_COLUMNS = (1, 3)
"""Where the labels of the context stand."""
SETS = ("train", "relabel", "exemplar")
"""Sequences as in training; with pairs of labels that were held out; with items held out."""
_BLOCK = 1024  # steps whose batches are drawn at once: a draw by itself costs as much as they do
_MOST = 2_000


@dataclass(frozen=True)
class FormationTask:
    """What sequences are made of; the defaults are those of Singh et al. (2024).

    The two items of the context are of different classes and have different labels, a pair drawn
    for each sequence anew, so only the context tells the query's label. A class is one fixed
    vector: Gaussian here, an image's features in the paper.

    Attributes:
        n_classes: of training; ``n_classes * (n_classes - 1) * 2`` orders of items and query.
        n_labels: of which each sequence has two.
        n_held_out: pairs of labels that training never shows: the set "relabel".
        n_features: numbers of a class's vector, each standard normal.
        n_test_classes: classes that training never shows: the set "exemplar".
        similarity: cosine of two classes' vectors, in [0, 1): what they have in common. Images'
            features have much of it: from 0.8 on, matching is learnt later than copying, as in
            the paper; with 0, before.
        seed: of the vectors, and of which pairs are held out.

    Raises:
        TaskError: if a size is out of range, or no pair of labels is left to train on.
    """

    n_classes: int = 50
    n_labels: int = 5
    n_held_out: int = 2
    n_features: int = 512
    n_test_classes: int = 100
    similarity: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            TaskError,
            n_classes=whole(2, _MOST),
            n_labels=whole(3, _MOST),
            n_features=whole(1, 2**16),
            n_held_out=whole(1),
            n_test_classes=whole(2, _MOST),
            similarity=number(least=0, below=1),
        )
        n_pairs = self.n_labels * (self.n_labels - 1) // 2
        if self.n_held_out >= n_pairs:
            raise TaskError(
                f"n_held_out is {self.n_held_out}: expected fewer than the {n_pairs} pairs that "
                f"{self.n_labels} labels make"
            )

    @cached_property
    def vectors(self) -> Float[Tensor, "class n_features"]:
        """The vectors of all classes, those of training first."""
        shape = self.n_classes + self.n_test_classes, self.n_features
        generator = np.random.default_rng([self.seed, 0])
        own, shared = generator.standard_normal(shape), generator.standard_normal(shape[1])
        drawn = (1 - self.similarity) ** 0.5 * own + self.similarity**0.5 * shared
        return torch.from_numpy(drawn).float()

    @cached_property
    def label_pairs(self) -> Mapping[str, tuple[tuple[int, int], ...]]:
        """The pairs of labels of each set, every pair once, the lower label first."""
        pairs = list(combinations(range(self.n_labels), 2))
        order = np.random.default_rng([self.seed, 1]).permutation(len(pairs)).tolist()
        held_out = tuple(sorted(pairs[i] for i in order[: self.n_held_out]))
        trained = tuple(sorted(pairs[i] for i in order[self.n_held_out :]))
        return {"train": trained, "relabel": held_out, "exemplar": trained}

    @checked(TaskError)
    def size(self, name: str) -> int:
        """How many sequences a set has.

        >>> FormationTask().size("train")
        78400

        Raises:
            TaskError: if there is no such set.
        """
        check_choice("name", name, SETS, error=TaskError)
        n_classes = self.n_test_classes if name == "exemplar" else self.n_classes
        return n_classes * (n_classes - 1) * len(self.label_pairs[name]) * 4

    @checked(TaskError)
    def sequences(self, name: str = "train", n: int | None = None) -> Int[Tensor, "sequence pos"]:
        """The sequences of a set, or ``n`` of them, drawn without repetition by the task's seed.

        Args:
            n: how many; ``None``, or as many as there are, means all, in one order.

        Raises:
            TaskError: if there is no such set.
        """
        size = self.size(name)
        if n is None or n >= size:
            return self._at(name, np.arange(size))
        generator = np.random.default_rng([self.seed, 2, SETS.index(name)])
        return self._at(name, generator.choice(size, n, replace=False))

    @checked(TaskError)
    def batches(self, seed: int, step: int, batch_size: int) -> Int[Tensor, "step batch pos"]:
        """The training batches from a step on, up to the end of its block.

        Each is drawn from all training sequences, and depends on seed and step alone.

        Raises:
            TaskError: if an argument is out of range.
        """
        block, offset = divmod(step, _BLOCK)
        generator = np.random.default_rng([seed, 3, block])
        drawn = generator.integers(self.size("train"), size=(_BLOCK, batch_size))
        rows = self._at("train", drawn[offset:].reshape(-1))
        return rows.view(-1, batch_size, N_TOKENS)

    def _at(self, name: str, places: Int[ndarray, "sequence"]) -> Int[Tensor, "sequence pos"]:
        """The sequences at some places of a set's order."""
        held_out = name == "exemplar"
        n_classes = self.n_test_classes if held_out else self.n_classes
        pairs = np.array(self.label_pairs[name])
        rest, query = np.divmod(places, 2)
        rest, turned = np.divmod(rest, 2)
        rest, pair = np.divmod(rest, len(pairs))
        first, other = np.divmod(rest, n_classes - 1)
        items = np.stack([first, other + (other >= first)])
        items += self.n_labels + held_out * self.n_classes
        labels = np.where(turned, pairs[pair].T[::-1], pairs[pair].T)
        asked = np.where(query, items[1], items[0])
        rows = np.stack([items[0], labels[0], items[1], labels[1], asked], axis=-1)
        return torch.from_numpy(rows)


def right_columns(tokens: Int[Tensor, "sequence pos"]) -> Int[Tensor, "sequence"]:
    """Where the label stands that the query asks for: column 1 or 3."""
    return torch.where(tokens[:, 0] == tokens[:, 4], 1, 3)


def answers_of(tokens: Int[Tensor, "sequence pos"]) -> Int[Tensor, "sequence"]:
    """The labels that the queries ask for."""
    return tokens.gather(1, right_columns(tokens)[:, None])[:, 0]
