"""Training batches for the embedded model: prompts with their answers, a function of the step."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate.embedded.languages import LANGUAGES, MIN_WORDS, PYTHON, Language, sample_sentence
from icl_locate.embedded.tokenizer import INSTRUCTION, vocabulary

IGNORED = -100
_JUDGED_FROM_SHOT = 3


@dataclass(frozen=True)
class Batch:
    """A right-padded batch.

    Attributes:
        tokens: token ids.
        labels: the next token where it belongs to an answer, else -100.
        judged: the labels that show in-context learning: the first word of an answer that only
            three examples or more can tell.
    """

    tokens: Int[Tensor, "batch pos"]
    labels: Int[Tensor, "batch pos"]
    judged: Bool[Tensor, "batch pos"]


class BatchSampler:
    """Draws batches; each is determined by the seed, the step and the longest sentence alone."""

    def __init__(self, seed: int, batch_size: int, instructed: float, final_length: int) -> None:
        self._seed = seed
        self._batch_size = batch_size
        self._instructed = instructed
        self._final_length = final_length
        self._ids = {token: i for i, token in enumerate(vocabulary())}

    def encode(self, words: Sequence[str]) -> list[int]:
        """Token ids of words that are all in the vocabulary, without BOS."""
        return [self._ids[f"▁{word}"] for word in words]

    def sample(self, step: int, longest: int) -> Batch:
        """The batch of a step, with sentences of up to ``longest`` words."""
        generator = random.Random(f"{self._seed}/{step}")
        most_shots = 9 if longest == self._final_length and generator.random() < 0.15 else 6
        n_shots = generator.randint(2, most_shots)
        rows = [self._sample_row(generator, longest, n_shots) for _ in range(self._batch_size)]
        shape = len(rows), max(len(tokens) for tokens, _, _ in rows)
        batch = Batch(
            tokens=torch.zeros(shape, dtype=torch.long),
            labels=torch.full(shape, IGNORED),
            judged=torch.zeros(shape, dtype=torch.bool),
        )
        for i, (tokens, labels, judged) in enumerate(rows):
            batch.tokens[i, : len(tokens)] = torch.tensor(tokens)
            batch.labels[i, : len(labels)] = torch.tensor(labels)
            batch.judged[i, judged] = True
        return batch

    def _sample_row(
        self, generator: random.Random, longest: int, n_shots: int
    ) -> tuple[list[int], list[int], list[int]]:
        """One prompt: its tokens, its labels, and the positions of the judged ones."""
        language = generator.choice(LANGUAGES)
        if generator.random() < 0.05:
            language = PYTHON
        instructed = generator.random() < self._instructed
        tokens = [self._ids["<s>"]]
        if instructed:
            tokens += self.encode([*INSTRUCTION.format(language.name).split(), "\n"])
        labels = [IGNORED] * len(tokens)
        judged: list[int] = []
        for shot in range(n_shots + 1):
            source, target = self._sample_pair(generator, language, longest)
            if shot >= _JUDGED_FROM_SHOT and not instructed:
                judged.append(len(tokens) + len(source) - 1)
            tokens += source + target
            labels += [IGNORED] * (len(source) - 1) + target + [IGNORED]
        return tokens, labels, judged

    def _sample_pair(
        self, generator: random.Random, language: Language, longest: int
    ) -> tuple[list[int], list[int]]:
        shortest = longest if longest <= 2 else longest - 1
        if longest == self._final_length:
            shortest = MIN_WORDS
        words = sample_sentence(generator, generator.randint(shortest, longest))
        source = self.encode(["Q:", *words, "A:"])
        return source, self.encode([*language.translate(words), "\n"])
