"""Training batches for the embedded model: rows put together, a function of the step."""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate.embedded.languages import MAX_WORDS
from icl_locate.training.curriculum import KINDS, Kind, Stage
from icl_locate.training.rows import IGNORED, Row, RowSampler


@dataclass(frozen=True)
class Batch:
    """A right-padded batch.

    Attributes:
        tokens: token ids.
        labels: the next token where it is to be told, else -100.
        judged: the labels that show in-context learning, as their rows say.
        kinds: of each row, one of `KINDS` by number.
    """

    tokens: Int[Tensor, "batch pos"]
    labels: Int[Tensor, "batch pos"]
    judged: Bool[Tensor, "batch pos"]
    kinds: Int[Tensor, " batch"]


class BatchSampler:
    """Draws batches; each is determined by the seed, the step and the stage alone."""

    def __init__(self, seed: int, batch_size: int, instructed: float) -> None:
        self._seed = seed
        self._batch_size = batch_size
        self._rows = RowSampler(instructed)

    def sample(self, step: int, stage: Stage) -> Batch:
        """The batch of a step."""
        generator = random.Random(f"{self._seed}/{step}")
        most_shots = 9 if stage.longest == MAX_WORDS and generator.random() < 0.15 else 6
        n_shots = generator.randint(2, most_shots)
        drawn = [self._draw(generator, stage, n_shots) for _ in range(self._batch_size)]
        rows = [row for _, row in drawn]
        shape = len(rows), max(len(row.tokens) for row in rows)
        batch = Batch(
            tokens=torch.zeros(shape, dtype=torch.long),
            labels=torch.full(shape, IGNORED),
            judged=torch.zeros(shape, dtype=torch.bool),
            kinds=torch.tensor([KINDS.index(kind) for kind, _ in drawn]),
        )
        for i, row in enumerate(rows):
            batch.tokens[i, : len(row.tokens)] = torch.tensor(row.tokens)
            batch.labels[i, : len(row.labels)] = torch.tensor(row.labels)
            batch.judged[i, row.judged] = True
        return batch

    def _draw(self, generator: random.Random, stage: Stage, n_shots: int) -> tuple[Kind, Row]:
        kind = stage.kind_at(generator.random())
        if kind == "translations":
            return kind, self._rows.translations(generator, stage.longest, n_shots)
        return kind, getattr(self._rows, kind)(generator)
