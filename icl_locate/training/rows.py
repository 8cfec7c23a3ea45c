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
from icl_locate.tasks.patterns import LETTER_PATTERNS, PATTERN_TASKS, Draw, pattern_kinds

IGNORED = -100
WORD_TASKS = [name for name in PATTERN_TASKS if name not in LETTER_PATTERNS]
_JUDGED_FROM_SHOT = 3
_PYTHON_SHARE = 0.05
_PATTERNS_INSTRUCTED = 0.3
_LETTERS = 0.8
_MOST_ITEMS = 14


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
    """Draws rows, of each kind by the method of its name."""

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

        Judged: the first word of an answer behind three examples or more, without an instruction.
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

    def repeats(self, generator: random.Random) -> Row:
        """Random distinct words, again and again; every second time a line break ends each copy.

        Judged, and to be told: what follows the same token in an earlier copy.
        """
        segment = self.encode(generator.sample(self._stock, generator.randint(4, 44)))
        if generator.random() < 0.5:
            segment[-1:] = self.encode(["\n"])
        return self._again(segment, 96, range(96))

    def spaced(self, generator: random.Random) -> Row:
        """Random words, every one, second or third before a colon or line break, again and again.

        To be told: what follows in an earlier copy. Judged: what follows the marks.
        """
        words = self.encode(generator.sample(self._stock, generator.randint(3, 24)))
        every = generator.randint(1, 3)
        mark = self.encode([generator.choice((":", ":", "\n"))])[0]
        segment = [
            token
            for i, word in enumerate(words)
            for token in ([word, mark] if i % every == 0 else [word])
        ]
        length = min(128, 4 * len(segment))
        marked = [1 + i for i in range(length) if segment[i % len(segment)] == mark]
        return self._again(segment, length, marked)

    def _again(self, segment: list[int], length: int, judged: Sequence[int]) -> Row:
        """A segment repeated to a length, told from the second copy on."""
        tokens = [self._bos, *islice(cycle(segment), length)]
        told = range(1 + len(segment), length)
        labels = [IGNORED] * len(tokens)
        for i in told:
            labels[i] = tokens[i + 1]
        return Row(tokens, labels, [i for i in judged if i in told])

    def classes(self, generator: random.Random) -> Row:
        """As `patterns`, but with labels that mean what they do in the task, example or not."""
        return self.patterns(generator, settled=True)

    def patterns(self, generator: random.Random, *, settled: bool = False) -> Row:
        """Sequences of a pattern task and their labels. Judged: labels of a class that was shown.

        Labels are dealt out anew, so that only the examples tell them, unless they are settled.
        """
        letters = generator.random() < _LETTERS
        kinds = self._kinds[generator.choice(list(LETTER_PATTERNS) if letters else WORD_TASKS)]
        labels = LABELS if settled else generator.sample(LABELS, len(kinds))
        n_items = generator.randint(2 * len(kinds), _MOST_ITEMS)
        classes = list(islice(cycle(range(len(kinds))), n_items))
        generator.shuffle(classes)
        items = [(_draw(kinds[i], generator), labels[i], labels[i]) for i in classes]
        return self._labelled(generator, items)

    def recall(self, generator: random.Random) -> Row:
        """Words, or pairs of them, each with a label of its own, that come again. Judged: again."""
        n_words, n_different = generator.randint(1, 2), generator.randint(3, 8)
        words = generator.sample(self._stock, n_words * n_different)
        shown = [
            (words[i : i + n_words], generator.choice(LABELS))
            for i in range(0, len(words), n_words)
        ]
        again = [generator.choice(shown) for _ in range(generator.randint(6, _MOST_ITEMS))]
        items = [(item, label, " ".join(item)) for item, label in [*shown, *again]]
        return self._labelled(generator, items)

    def _labelled(
        self, generator: random.Random, items: Sequence[tuple[Sequence[str], str, str]]
    ) -> Row:
        """Items, their labels, and what must have been shown for a label to be judged."""
        tokens = [self._bos]
        if generator.random() < _PATTERNS_INSTRUCTED:
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
            labels += [IGNORED] * (len(source) - 1) + [target[0], *[IGNORED] * len(target)]
        labels[-3] = tokens[-2]  # the end of an answer needs no more telling than that
        return Row(tokens, labels, judged)


def _draw(draw: Draw, generator: random.Random) -> Sequence[str]:
    """A sequence that is not held out."""
    while True:
        words = draw(generator, 1)[0]
        if not is_held_out(words):
            return words
