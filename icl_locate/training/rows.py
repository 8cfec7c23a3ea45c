"""Rows of training batches: each kind of prompt with its answers, drawn by a given generator."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from icl_locate.embedded.languages import (
    LANGUAGES,
    MAX_WORDS,
    MIN_WORDS,
    PYTHON,
    Language,
    is_held_out,
    sample_sentence,
)
from icl_locate.embedded.tokenizer import INSTRUCTION, vocabulary, word_stock
from icl_locate.embedded.words import LABELS, PATTERN_INSTRUCTION
from icl_locate.tasks.patterns import PATTERN_TASKS, Draw, pattern_kinds

IGNORED = -100
_JUDGED_FROM_SHOT = 3
_PYTHON_SHARE = 0.05
_RECALL_SHARE = 0.2


@dataclass(frozen=True)
class Row:
    """One training prompt.

    Attributes:
        tokens: its token ids, behind BOS.
        labels: at each position the next token where it is to be told, else -100.
        judged: the positions whose labels show in-context learning.
    """

    tokens: list[int]
    labels: list[int]
    judged: list[int]


class RowSampler:
    """Draws rows of three kinds: translations, labelled patterns, repeated tokens."""

    def __init__(self, instructed: float) -> None:
        self._instructed = instructed
        self._ids = {token: i for i, token in enumerate(vocabulary())}
        self._bos = self._ids["<s>"]
        self._stock = word_stock()
        self._kinds = {name: pattern_kinds(name) for name in PATTERN_TASKS}

    def encode(self, words: Sequence[str]) -> list[int]:
        """Token ids of words that are all in the vocabulary, without BOS."""
        return [self._ids[f"▁{word}"] for word in words]

    def translations(self, generator: random.Random, longest: int, n_shots: int) -> Row:
        """Sentences and their translations, of up to ``longest`` words, one language throughout.

        Judged: the first word of an answer that only three examples or more can tell.
        """
        language = generator.choice(LANGUAGES)
        if generator.random() < _PYTHON_SHARE:
            language = PYTHON
        instructed = generator.random() < self._instructed
        tokens = [self._bos]
        if instructed:
            named = INSTRUCTION.format(language.name).replace(":", " :")
            tokens += self.encode([*named.split(), "\n"])
        labels = [IGNORED] * len(tokens)
        judged: list[int] = []
        for shot in range(n_shots + 1):
            source, target = self._sample_pair(generator, language, longest)
            if shot >= _JUDGED_FROM_SHOT and not instructed:
                judged.append(len(tokens) + len(source) - 1)
            tokens += source + target
            labels += [IGNORED] * (len(source) - 1) + target + [IGNORED]
        return Row(tokens, labels, judged)

    def _sample_pair(
        self, generator: random.Random, language: Language, longest: int
    ) -> tuple[list[int], list[int]]:
        shortest = longest if longest <= 2 else longest - 1
        if longest == MAX_WORDS:
            shortest = MIN_WORDS
        words = sample_sentence(generator, generator.randint(shortest, longest))
        source = self.encode(["Q:", *words, "A:"])
        return source, self.encode([*language.translate(words), "\n"])

    def repeats(self, generator: random.Random, length: int, longest_period: int) -> Row:
        """Random distinct words, again and again; every second time a line break ends each copy.

        Judged, and to be told: what follows the same token in an earlier copy.
        """
        period = generator.randint(4, longest_period)
        segment = self.encode(generator.sample(self._stock, period))
        if generator.random() < 0.5:
            segment[-1:] = self.encode(["\n"])
        tokens = [self._bos, *islice(cycle(segment), length)]
        judged = list(range(1 + period, length))
        labels = [IGNORED] * len(tokens)
        for i in judged:
            labels[i] = tokens[i + 1]
        return Row(tokens, labels, judged)

    def patterns(self, generator: random.Random) -> Row:
        """Sequences and their labels, which the examples alone give: they are dealt out anew.

        Sequences of a pattern task; or, in a fifth of the rows, pairs of words of which each has a
        label of its own and comes again. Judged: labels of a class that an example has shown.
        """
        if generator.random() < _RECALL_SHARE:
            items = self._recalled(generator)
        else:
            items = self._classified(generator)
        tokens = [self._bos]
        if generator.random() < 0.5:
            tokens += self.encode([*PATTERN_INSTRUCTION.split(), "\n", "\n"])
        labels = [IGNORED] * len(tokens)
        judged: list[int] = []
        seen: set[str] = set()
        for words, label, shown_by in items:
            source, target = self.encode([*words, ":"]), self.encode([label, "\n", "\n"])
            if shown_by in seen:
                judged.append(len(tokens) + len(source) - 1)
            seen.add(shown_by)
            tokens += source + target
            labels += [IGNORED] * (len(source) - 1) + target + [IGNORED]
        return Row(tokens, labels, judged)

    def _classified(self, generator: random.Random) -> list[tuple[Sequence[str], str, str]]:
        kinds = self._kinds[generator.choice(PATTERN_TASKS)]
        names = generator.sample(LABELS, len(kinds))
        n_items = generator.randint(2 * len(kinds), 13)
        classes = list(islice(cycle(range(len(kinds))), n_items))
        generator.shuffle(classes)
        return [(_draw(kinds[i], generator), names[i], names[i]) for i in classes]

    def _recalled(self, generator: random.Random) -> list[tuple[Sequence[str], str, str]]:
        words = generator.sample(self._stock, 2 * generator.randint(3, 6))
        pairs = [(words[i : i + 2], generator.choice(LABELS)) for i in range(0, len(words), 2)]
        again = [generator.choice(pairs) for _ in range(generator.randint(4, 8))]
        return [(pair, label, " ".join(pair)) for pair, label in [*pairs, *again]]


def _draw(draw: Draw, generator: random.Random) -> Sequence[str]:
    """A sequence that is not held out."""
    while True:
        words = draw(generator, 1)[0]
        if not is_held_out(words):
            return words
