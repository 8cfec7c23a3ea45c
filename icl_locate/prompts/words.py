"""The words, labels and delimiters that a prompt's tokens belong to."""

import re
from bisect import bisect_right
from collections.abc import Sequence

_UNIT = re.compile(r"\n+|[^\S\n]*(?:[\w'-]+|[^\w\s]+)|\s+")


def number_words(text: str, firsts: Sequence[int]) -> list[int]:
    """A number for the word of each token: the same for the same place in the same word.

    A word is a run of letters, digits, hyphens and apostrophes, a delimiter a run of other
    characters or of line breaks; white space before either does not count. A token's place is the
    number of the word's tokens that come after it.

    Args:
        firsts: each token's first character that is no white space, ascending.

    >>> number_words("cat:A, cat", [0, 3, 4, 5, 7])
    [0, 1, 2, 3, 0]
    >>> number_words("cat cats cat", [0, 4, 7, 9])
    [0, 1, 2, 0]
    """
    units = list(_UNIT.finditer(text))
    ends = [unit.end() for unit in units]
    owners = [min(bisect_right(ends, first), len(units) - 1) for first in firsts]
    numbers: dict[tuple[str, int], int] = {}
    found: list[int] = []
    for place, owner in enumerate(owners):
        to_come = bisect_right(owners, owner) - 1 - place
        name = units[owner].group().strip() or units[owner].group()
        found.append(numbers.setdefault((name, to_come), len(numbers)))
    return found
