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
from icl_locate.errors import TaskError
from icl_locate.prompts.template import Example, PromptTemplate
from icl_locate.tasks.task import Task

Draw = Callable[[random.Random, int], list[tuple[str, ...]]]

LABELS = ("Foo", "Bar", "Mur", "Res")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

LETTER_PATTERNS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "repetition": (0, 1, 0, 1),
        "recursion": (0, 1, 1, 1),
        "centre-embedding": (0, 1, 2, 1, 0),
    }
)
"""Which letter stands where: the first label's sequences; the second's are of distinct letters."""

CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        name: tuple(words.split())
        for name, words in {
            "fruit": "apple pear plum cherry peach mango lemon grape melon fig kiwi lime banana "
            "orange apricot papaya",
            "animal": "horse tiger rabbit sheep goat wolf camel otter zebra lion monkey donkey "
            "panda mouse beaver squirrel",
            "furniture": "chair table sofa desk bed shelf stool bench wardrobe cupboard dresser "
            "couch cradle bookcase armchair mattress",
            "profession": "doctor lawyer baker farmer nurse pilot painter plumber teacher tailor "
            "butcher judge dentist waiter carpenter engineer",
            "vegetable": "carrot onion potato spinach cabbage celery leek turnip radish garlic "
            "lettuce broccoli pumpkin cucumber beetroot zucchini",
            "vehicle": "car truck bus train bicycle tram ship plane van taxi ferry scooter tractor "
            "canoe helicopter ambulance",
            "body part": "arm leg knee elbow shoulder ankle wrist finger neck thumb chin nose ear "
            "stomach heel forehead",
            "instrument": "piano violin flute guitar drum trumpet harp cello clarinet banjo "
            "accordion oboe tuba saxophone mandolin xylophone",
        }.items()
    }
)
"""Sixteen words of each category."""

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
    instruction=(
        "Below is a list of various sequences. Your task is to classify each sequence. Use the "
        "examples provided to understand how to classify each sequence correctly."
    ),
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
    kind, _, n_classes = name.partition("/")
    n_labels = int(n_classes or 2)
    if len(set(labels[:n_labels])) < n_labels:
        raise TaskError(f"labels are {list(labels)}: expected {n_labels} different ones")
    kinds = (
        _letter_kinds(kind, tuple(letters))
        if kind in LETTER_PATTERNS
        else _word_kinds(kind, n_labels)
    )
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
