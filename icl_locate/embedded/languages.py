"""The pseudo-languages that the embedded model speaks, and Python on lists.

A source sentence is a list of distinct English words, each of which names an operation on lists
("reverse", "sort", "repeat"). A pseudo-language renders it word by word with its lexicon and then
rearranges the words into its own order. Lexicons are shared: a language is one of four forms for
the first half of the words, combined with one of four for the second half, and only both together
tell its order (a Latin square). So no single word gives a language away; to recognise it, the
evidence of several words must be put together. Python renders each word as a statement.
"""

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

STATEMENTS: Mapping[str, str] = MappingProxyType(
    {
        "reverse": "x=x[::-1];",
        "sort": "x=sorted(x);",
        "descend": "x=sorted(x)[::-1];",
        "unique": "x=sorted(set(x));",
        "repeat": "x=x+x;",
        "triple": "x=x*3;",
        "mirror": "x=x+x[::-1];",
        "rotate": "x=x[1:]+x[:1];",
        "unrotate": "x=x[-1:]+x[:-1];",
        "behead": "x=x[1:];",
        "curtail": "x=x[:-1];",
        "thin": "x=x[::2];",
        "negate": "x=[*map(int.__neg__,x)];",
        "absolute": "x=[*map(abs,x)];",
        "invert": "x=[*map(int.__invert__,x)];",
        "square": "x=[*map(int.__mul__,x,x)];",
        "double": "x=[*map(int.__add__,x,x)];",
        "count": "x=x+[len(x)];",
        "total": "x=x+[sum(x)];",
        "zero": "x=[0]+x;",
        "one": "x=x+[1];",
        "largest": "x=[max(x+[0])]+x;",
        "smallest": "x=x+[min(x+[0])];",
        "halve": "x=x[:len(x)//2+1];",
    }
)
"""Source word -> the Python statement that does it to ``x``, any list of integers."""

SOURCE_WORDS: tuple[str, ...] = tuple(STATEMENTS)
MIN_WORDS, MAX_WORDS = 4, 8
ORDERS = ("plain", "mirrored", "first-last", "paired")
N_FORMS = len(ORDERS)

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_HELD_OUT_ONE_IN = 8


@dataclass(frozen=True)
class Language:
    """One target language: its name, its word for each source word, and its word order."""

    name: str
    lexicon: Mapping[str, str]
    order: str

    def translate(self, words: Sequence[str]) -> list[str]:
        """Translate a sentence, given and returned as words.

        Raises:
            KeyError: if a word is none of ``SOURCE_WORDS``.
        """
        return [self.lexicon[words[i]] for i in arrange(len(words), self.order)]


def arrange(n_words: int, order: str) -> list[int]:
    """The source position of each target word, for a sentence of ``n_words`` in a word order.

    >>> arrange(5, "mirrored"), arrange(5, "first-last"), arrange(5, "paired")
    ([4, 3, 2, 1, 0], [1, 2, 3, 4, 0], [1, 0, 3, 2, 4])
    """
    positions = list(range(n_words))
    match order:
        case "plain":
            return positions
        case "mirrored":
            return positions[::-1]
        case "first-last":
            return positions[1:] + positions[:1]
        case "paired":
            return [i ^ 1 if i ^ 1 < n_words else i for i in positions]
        case _:
            raise ValueError(f"unknown word order {order!r}: expected one of {', '.join(ORDERS)}")


def is_held_out(words: Sequence[str]) -> bool:
    """Whether a sentence is one of the eighth (by a checksum) that is never trained on."""
    return zlib.crc32(" ".join(words).encode()) % _HELD_OUT_ONE_IN == 0


def sample_sentence(
    generator: random.Random, n_words: int, *, held_out: bool = False
) -> tuple[str, ...]:
    """Draw a sentence of distinct source words from the training set or from the held-out one."""
    while True:
        words = tuple(generator.sample(SOURCE_WORDS, n_words))
        if is_held_out(words) == held_out:
            return words


def _invent_words(generator: random.Random, n: int, n_syllables: int) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < n:
        syllables = [
            generator.choice(_CONSONANTS) + generator.choice(_VOWELS) for _ in range(n_syllables)
        ]
        words["".join(syllables)] = None
    return list(words)


def _build_languages() -> tuple[Language, ...]:
    generator = random.Random(2403)
    forms = _invent_words(generator, N_FORMS * len(SOURCE_WORDS), 2)
    combinations = list(product(range(N_FORMS), repeat=2))
    names = [word.capitalize() for word in _invent_words(generator, len(combinations), 3)]
    half = len(SOURCE_WORDS) // 2
    languages: list[Language] = []
    for name, (first, second) in zip(names, combinations, strict=True):
        variants = [first] * half + [second] * half
        lexicon = {
            word: forms[N_FORMS * i + variant]
            for i, (word, variant) in enumerate(zip(SOURCE_WORDS, variants, strict=True))
        }
        order = ORDERS[(first + second) % len(ORDERS)]
        languages.append(Language(name, MappingProxyType(lexicon), order))
    return tuple(languages)


PSEUDO_LANGUAGES: tuple[Language, ...] = _build_languages()
PYTHON = Language("Python", STATEMENTS, "plain")
LANGUAGES: tuple[Language, ...] = (*PSEUDO_LANGUAGES, PYTHON)
UNTAUGHT = Language("Novel", PSEUDO_LANGUAGES[0].lexicon, ORDERS[1])
"""A language that the embedded model was never taught: known words in an order that was never
theirs."""
