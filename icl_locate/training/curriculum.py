"""The curriculum of the embedded model: what each stage's batches hold, and what ends it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["translations", "patterns", "recall", "repeats", "spaced"]
KINDS: tuple[Kind, ...] = ("translations", "patterns", "recall", "repeats", "spaced")


@dataclass(frozen=True)
class Stage:
    """A mixture of rows, and the accuracy that ends it.

    Attributes:
        shares: of the kinds of rows (`icl_locate.training.rows`); what is missing to 1 are
            translations.
        longest: words in the longest sentences of translations.
        settled: the share of labelled patterns whose labels mean what they do in the tasks, rather
            than being dealt out anew.
        letters: the share of labelled patterns that are of letters; the others are of words.
        asked: the kind whose running accuracy ends the stage.
        until: the accuracy that does.
        not_before: the step before which it does not.
    """

    shares: Mapping[Kind, float] = field(default_factory=dict)
    longest: int = 1
    settled: float = 0.0
    letters: float = 0.6
    asked: Kind = "translations"
    until: float = 0.9
    not_before: int = 0

    def kind_at(self, place: float) -> Kind:
        """The kind of row at a place between 0 and 1, where the shares lie side by side."""
        for kind, share in self.shares.items():
            if place < share:
                return kind
            place -= share
        return "translations"


_LATER: Mapping[Kind, float] = {"repeats": 0.07, "spaced": 0.03, "recall": 0.05, "patterns": 0.15}
_LAST: Mapping[Kind, float] = {"repeats": 0.1, "spaced": 0.05, "recall": 0.05, "patterns": 0.4}

CURRICULUM: tuple[Stage, ...] = (
    # Induction heads form when nearly everything repeats; mixed in from the start, they do not.
    Stage({"repeats": 0.9, "patterns": 0.05}, settled=1.0, asked="repeats"),
    # To tell a label by what stood before the colon takes a match two tokens back, which forms at
    # once on words that repeat between colons and, without these, not in hundreds of steps.
    Stage(
        {"spaced": 0.4, "recall": 0.2, "patterns": 0.25, "repeats": 0.05},
        settled=1.0, asked="recall", until=0.85,
    ),
    # What the classes are is learned while their labels stay the same, what they are called after.
    Stage(
        {"patterns": 0.65, "recall": 0.1, "spaced": 0.05, "repeats": 0.1},
        settled=0.9, asked="patterns", until=0.85,
    ),
    Stage(
        {"patterns": 0.65, "recall": 0.1, "spaced": 0.05, "repeats": 0.1},
        asked="patterns", until=0.85,
    ),
    *(Stage(_LATER, longest=longest) for longest in (1, 2, 3, 4, 6)),
    Stage(_LATER, longest=8, until=0.99, not_before=1500),
    # Patterns of letters are forgotten meanwhile: once translations are mastered, they come again.
    Stage(_LAST, longest=8, settled=0.5, letters=0.8, asked="patterns"),
    Stage(_LAST, longest=8, letters=0.8),
)  # fmt: skip
"""Repeats, then labelled patterns, then translations of more and more words, then all together."""
