"""Pattern tasks: sequences of letters or words whose pattern the label names.

The tasks of Crosbie and Shutova (2024, section 3.2), made anew by seed, without duplicates.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from types import MappingProxyType

from icl_locate.checks.signatures import checked
from icl_locate.embedded.words import CATEGORIES, LABELS, LETTERS, PATTERN_INSTRUCTION
from icl_locate.errors import TaskError
from icl_locate.prompts.template import Example, PromptTemplate
from icl_locate.tasks.task import Task

Draw = Callable[[random.Random, int], list[tuple[str, ...]]]

LETTER_PATTERNS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "repetition": (0, 1, 0, 1),
        "recursion": (0, 1, 1, 1),
        "centre-embedding": (0, 1, 2, 1, 0),
    }
)
"""Which letter stands where: the first label's sequences; the second's are of distinct letters."""

WORD_PATTERNS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "f_a_f_p": (
            ("fruit", "animal"),
            ("furniture", "profession"),
            ("furniture", "animal"),
            ("fruit", "profession"),
        ),
        "v_v_b_i": (
            ("vegetable", "vehicle"),
            ("body part", "instrument"),
            ("vegetable", "instrument"),
            ("body part", "vehicle"),
        ),
    }
)
"""The categories of a sequence's two words under each label, in the order of `LABELS`."""

PATTERN_TASKS = (
    *LETTER_PATTERNS,
    *(f"{name}/{n_classes}" for name in WORD_PATTERNS for n_classes in (2, 4)),
)

TEMPLATE = PromptTemplate(
    instruction=PATTERN_INSTRUCTION,
    source_prefix="",
    target_prefix=":",
    separator="\n\n",
)


@checked(TaskError)
def pattern_task(
    name: str,
    *,
    seed: int = 0,
    n_per_class: int = 250,
    letters: str | Sequence[str] = LETTERS,
    labels: Sequence[str] = LABELS,
) -> Task:
    """A pattern task: as many sequences of each label, none twice, in an order drawn by seed.

    All sequences are queries, and examples for the other queries: a query's examples are balanced
    over the labels and share no word with it.

    Args:
        name: one of `PATTERN_TASKS`: "repetition" (A B A B), "recursion" (A B B B) and
            "centre-embedding" (A B C B A), each against distinct letters; "f_a_f_p/2", "f_a_f_p/4",
            "v_v_b_i/2" and "v_v_b_i/4", pairs of words by their categories.
        seed: of the sequences and their order.
        n_per_class: sequences of each label; word tasks hold at most 256.
        letters: what sequences of letters are made of.
        labels: what the classes are called; the first ones are used.

    Raises:
        TaskError: if the name is unknown, labels or letters are too few, or there are not so many
            different sequences.
    """
    if name not in PATTERN_TASKS:
        raise TaskError(
            f"unknown pattern task {name!r}: expected the name of one, {', '.join(PATTERN_TASKS)}"
        )
    generator = random.Random(f"pattern task/{name}/{seed}")
    kinds = pattern_kinds(name, tuple(letters))
    if len(set(labels[: len(kinds)])) < len(kinds):
        raise TaskError(f"labels are {list(labels)}: expected {len(kinds)} different ones")
    examples = []
    for label, draw in zip(labels, kinds, strict=False):
        examples += [Example(" ".join(words), label) for words in draw(generator, n_per_class)]
    generator.shuffle(examples)
    return Task(
        name=name,
        train=tuple(examples),
        test=tuple(examples),
        template=TEMPLATE,
        metric="label_accuracy",
        choice="disjoint",
    )


def pattern_kinds(name: str, letters: Sequence[str] = LETTERS) -> list[Draw]:
    """How the sequences of each class of a pattern task are drawn, in the order of its labels."""
    kind, _, n_classes = name.partition("/")
    if kind in LETTER_PATTERNS:
        return _letter_kinds(kind, letters)
    return _word_kinds(kind, int(n_classes))


def _letter_kinds(kind: str, letters: Sequence[str]) -> list[Draw]:
    pattern = LETTER_PATTERNS[kind]
    if len(set(letters)) < max(len(letters), len(pattern)):
        raise TaskError(
            f"letters are {list(letters)}: expected {len(pattern)} or more, none of them twice"
        )
    return [partial(_draw, letters, pattern), partial(_draw, letters, range(len(pattern)))]


def _word_kinds(kind: str, n_labels: int) -> list[Draw]:
    pairs = WORD_PATTERNS[kind][:n_labels]
    return [
        partial(_sample, list(product(CATEGORIES[first], CATEGORIES[second])))
        for first, second in pairs
    ]


def _draw(
    letters: Sequence[str], pattern: Sequence[int], generator: random.Random, n: int
) -> list[tuple[str, ...]]:
    """Different sequences of a pattern, drawn one by one: there may be too many to list."""
    n_distinct = max(pattern) + 1
    _check_number(n, math.perm(len(letters), n_distinct))
    found: dict[tuple[str, ...], None] = {}
    while len(found) < n:
        chosen = generator.sample(letters, n_distinct)
        found[tuple(chosen[i] for i in pattern)] = None
    return list(found)


def _sample(
    sequences: Sequence[tuple[str, ...]], generator: random.Random, n: int
) -> list[tuple[str, ...]]:
    _check_number(n, len(sequences))
    return generator.sample(sequences, n)


def _check_number(n: int, most: int) -> None:
    if not 1 <= n <= most:
        raise TaskError(
            f"n_per_class is {n}: a label has {most} different sequences, expected 1 to {most}"
        )
