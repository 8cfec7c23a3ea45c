"""Repeated random tokens that fit a model, and their control that does not repeat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from icl_locate.checks.arguments import check_count, check_items, refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import PromptError
from icl_locate.induction.random_tokens import (
    TokenIds,
    check_sequences,
    check_tokens,
    opening_tokens,
    random_tokens,
    usable_tokens,
)
from icl_locate.models.bridge import Model
from icl_locate.models.loading import check_model

LENGTHS = (50, 37, 29)
"""Lengths whose copies lie at different distances: no fixed offset fits two of them."""

N_COPIES = 4
SHORTEST = 4
"""A default length is no shorter: in fewer tokens an offset is hardly told from a match."""

_SMALLEST = (7, 5, 4)  # the least that `fit_lengths` gives

TokenRows = Int[Tensor, "sequence pos"] | Sequence[Sequence[int]]
Source = Literal["vocabulary", "tokens", "sequences"]
Speech = Literal["python", "command"]


def fit_lengths(most: int, n_copies: int, longest: int = LENGTHS[0]) -> tuple[int, ...]:
    """Three lengths of at most ``most`` tokens, in the proportions of `LENGTHS`; () if none fit.

    In ``n_copies`` copies of them no two lengths share a distance between a token and what followed
    the same token, so that a head with a fixed offset fails at two of the three.

    >>> fit_lengths(100, 4), fit_lengths(20, 4), fit_lengths(5, 4)
    ((50, 37, 29), (20, 15, 12), ())
    """
    for first in range(min(most, longest), SHORTEST, -1):
        for second in range(round(first * LENGTHS[1] / LENGTHS[0]), SHORTEST, -1):
            for third in range(round(first * LENGTHS[2] / LENGTHS[0]), SHORTEST - 1, -1):
                found = (first, second, third)
                distances = [copy * n for n in found for copy in range(1, n_copies)]
                if len(set(distances)) == len(distances):
                    return found
    return ()


@short_repr("lengths", "n_copies", "n_sequences", "seed", "pool", "source", "given")
@dataclass(frozen=True)
class Sequences:
    """The token sequences on which a model's heads are measured.

    Attributes:
        lengths: of the sequences; each is measured by itself.
        n_copies: how often a sequence stands behind BOS.
        n_sequences, seed: of the random tokens.
        pool: the tokens that random sequences are drawn from.
        given: sequences of the user's own, of which each length takes the first tokens.
    """

    model: Model
    lengths: tuple[int, ...]
    n_copies: int
    n_sequences: int
    seed: int
    pool: Int[Tensor, "token"]
    source: Source
    given: Int[Tensor, "sequence pos"] | None = None

    @classmethod
    def fit(
        cls,
        model: Model,
        lengths: int | Sequence[int] | None = None,
        *,
        n_lengths: int = 3,
        n_copies: int | None = None,
        n_sequences: int = 5,
        seed: int = 0,
        tokens: TokenIds | None = None,
        sequences: TokenRows | None = None,
        speech: Speech = "python",
    ) -> "Sequences":
        """Sequences that the model's context and vocabulary hold.

        Args:
            lengths: ``None`` means `LENGTHS`, or three shorter ones where these do not fit; with
                sequences of the user's own, the longest is the whole sequence if that fits.
            n_lengths: 3, or 1 for the first of them alone.
            n_copies: ``None`` means 4, or fewer where a context is too small for four copies of
                three default lengths.
            tokens: to draw from; ``None`` means those of ``sequences``, else `usable_tokens`.
            sequences: to be repeated, in place of random ones.
            speech: whose options an error names.

        Raises:
            PromptError: if sizes are out of range or do not fit; it names lengths that do.
        """
        check_model(model)
        n_sequences = check_count("n_sequences", n_sequences, error=PromptError)
        seed = check_count("seed", seed, least=0, error=PromptError)
        if n_copies is not None:
            n_copies = check_count("n_copies", n_copies, error=PromptError)
        asked = None if lengths is None else check_lengths(lengths)
        given = None if sequences is None else check_sequences(model, sequences)
        source: Source = "vocabulary"
        if given is not None:
            n_sequences, source = len(given), "sequences"
            tokens = given.flatten().tolist() if tokens is None else tokens
        elif tokens is not None:
            source = "tokens"
        pool = usable_tokens(model) if tokens is None else check_tokens(model, tokens)
        room = _Room.of(model, pool, given, source, n_lengths, speech)
        if asked is None:
            asked, n_copies = room.fit(n_copies)
        else:
            n_copies = n_copies or N_COPIES
            room.check(asked, n_copies)
        return cls(model, asked, n_copies, n_sequences, seed, pool, source, given)

    @property
    def recipe(self) -> dict[str, Any]:
        """What a result says of them."""
        return {
            "lengths": list(self.lengths),
            "n_copies": self.n_copies,
            "n_sequences": self.n_sequences,
            "seed": self.seed,
            "drawn_from": self.source,
            "n_tokens": len(self.pool),
        }

    def repeated(self, length: int, n_copies: int | None = None) -> Int[Tensor, "sequence pos"]:
        """Each sequence several times behind BOS."""
        once = self.unrepeated(length, 1)
        first = once.shape[1] - length
        copy = once[:, first:] if self.given is None else self.given[:, :length]
        return torch.cat([once[:, :first], copy.repeat(1, n_copies or self.n_copies)], dim=1)

    def unrepeated(self, length: int, n_copies: int | None = None) -> Int[Tensor, "sequence pos"]:
        """As many random tokens, which do not repeat as far as there are others."""
        width = len(opening_tokens(self.model)) + (n_copies or self.n_copies) * length
        return random_tokens(self.model, self.n_sequences, width, seed=self.seed, pool=self.pool)


def check_lengths(lengths: int | Sequence[int]) -> tuple[int, ...]:
    """One or several lengths of sequences, each once.

    Raises:
        PromptError: if there are none, one stands there twice, or is below 2.
    """
    if hasattr(lengths, "__index__") and getattr(lengths, "shape", ()) == ():
        return (check_count("length", lengths, least=2, error=PromptError),)
    expected = "one or more lengths, each once, such as lengths=(50,)"
    items = check_items("lengths", lengths, expected, error=PromptError)
    if not items:
        raise PromptError(f"no lengths were given: expected {expected}")
    found = tuple(
        check_count(f"lengths[{i}]", item, least=2, error=PromptError)
        for i, item in enumerate(items)
    )
    if len(set(found)) < len(found):
        refuse("lengths", found, expected, PromptError)
    return found


@dataclass(frozen=True)
class _Room:
    """What a model holds: positions behind BOS, and tokens to choose among."""

    limit: int | None
    n_opening: int
    n_tokens: int
    source: Source
    preferred: int
    n_lengths: int
    speech: Speech

    @classmethod
    def of(
        cls,
        model: Model,
        pool: Int[Tensor, "token"],
        given: Int[Tensor, "sequence pos"] | None,
        source: Source,
        n_lengths: int,
        speech: Speech,
    ) -> "_Room":
        limit, n_opening = getattr(model.cfg, "n_ctx", None), len(opening_tokens(model))
        n_tokens, preferred = len(pool), LENGTHS[0]
        if given is not None:
            n_tokens = preferred = given.shape[1]
        limit = None if limit is None else int(limit)
        return cls(limit, n_opening, n_tokens, source, preferred, n_lengths, speech)

    def most(self, n_copies: int) -> int:
        """The longest sequence that fits."""
        if self.limit is None:
            return self.n_tokens
        return min(self.n_tokens, (self.limit - self.n_opening) // n_copies)

    def fit(self, n_copies: int | None) -> tuple[tuple[int, ...], int]:
        """Default lengths, and copies of them."""
        for copies in range(N_COPIES, 1, -1) if n_copies is None else (n_copies,):
            most = self.most(copies)
            found = fit_lengths(most, copies, self.preferred)
            if self.n_lengths == 1:
                found = (min(most, self.preferred),) if most >= 2 else ()
            if found:
                return found, copies
        own = "lengths=, tokens= or sequences=" if self.speech == "python" else "--lengths"
        raise PromptError(
            f"no three default lengths fit: of {self.n_tokens} tokens, in {n_copies or 2} copies "
            f"behind BOS, in a context of {self.limit} positions; the least are {_SMALLEST[0]}, "
            f"{_SMALLEST[1]} and {_SMALLEST[2]}; give {own} of your own"
        )

    def check(self, lengths: tuple[int, ...], n_copies: int) -> None:
        """Refuse lengths that do not fit, and name some that do."""
        length, most = max(lengths), self.most(n_copies)
        if length > self.n_tokens:
            having = {
                "vocabulary": f"only {self.n_tokens} tokens of the vocabulary are distinct and "
                "neither rare, special nor reserved",
                "tokens": f"only {self.n_tokens} different tokens were given",
                "sequences": f"the shortest of the sequences has {self.n_tokens} tokens",
            }[self.source]
            raise PromptError(
                f"length is {length}: expected 2 to {most} distinct tokens ({having})"
                f"{self._offer(length, n_copies)}"
            )
        if self.limit is not None and length > most:
            width = self.n_opening + n_copies * length
            raise PromptError(
                f"{n_copies} copies of {length} tokens take {width} positions, but the model's "
                f"context holds {self.limit}: use shorter sequences, of at most {most} tokens"
                f"{self._offer(length, n_copies)}"
            )

    def _offer(self, length: int, n_copies: int) -> str:
        found = fit_lengths(self.most(n_copies), n_copies, length)
        if self.n_lengths == 1 or not found:
            return ""
        if self.speech == "command":
            return f", such as --lengths {' '.join(map(str, found))}"
        return f", such as lengths={found}"
