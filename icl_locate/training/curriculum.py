"""The curriculum of the embedded model: what each stage's batches hold, and what ends it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["translations", "repeats", "spaced", "recall", "classes", "patterns"]
KINDS: tuple[Kind, ...] = (
    "translations", "repeats", "spaced", "recall", "classes", "patterns",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A mixture of rows, and the accuracy that ends it.

    Attributes:
        shares: of the kinds of rows (`icl_locate.training.rows`); what is missing to 1 are
            translations.
        longest: words in the longest sentences of translations.
        asked: the kind whose running accuracy ends the stage.
        until: the accuracy that does.
    """

    shares: Mapping[Kind, float] = field(default_factory=dict)
    longest: int = 8
    asked: Kind = "translations"
    until: float = 0.9

    def kind_at(self, place: float) -> Kind:
        """The kind of row at a place between 0 and 1, where the shares lie side by side."""
        for kind, share in self.shares.items():
            if place < share:
                return kind
            place -= share
        return "translations"


_MATCHED: Mapping[Kind, float] = {
    "spaced": 0.3, "recall": 0.15, "patterns": 0.25, "classes": 0.1, "repeats": 0.05,
}  # fmt: skip
_ALL: Mapping[Kind, float] = {"patterns": 0.4, "repeats": 0.1, "spaced": 0.05, "recall": 0.05}

CURRICULUM: tuple[Stage, ...] = (
    *(Stage(longest=longest) for longest in (1, 2, 3, 4, 6, 8)),
    # Heads match what layers below them tell. Without this stage the classes of letters were told
    # in the last layers alone, and letters labelled by chance.
    Stage({"classes": 0.7}, asked="classes"),
    # Induction heads form when nearly everything repeats; in a trial with a fifth they did not.
    Stage({"repeats": 0.75, "classes": 0.1}, asked="repeats"),
    # To tell a label by what stood before the colon takes a match two tokens back: words that
    # repeat between colons ask for nothing else.
    Stage(_MATCHED, asked="patterns"),
    Stage(_ALL),
)  # fmt: skip
"""Translations of more and more words, classes, repeats, labelled patterns, then all together."""
