"""Rules that name single edges of attention, (row, key), by the tokens that stand there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor
from torch.nn.functional import pad

from icl_locate._types import Part, Segment
from icl_locate.checks.arguments import check_choice
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import MaskError
from icl_locate.prompts.tokens import Prompts

Match = Literal["token", "word"]


@short_repr("segments", "tokens", "words", "parts", "shots")
@dataclass(frozen=True)
class Positions:
    """What a mask may look at: each position's segment, token, word, part and shot.

    Attributes:
        tokens: ``None`` where they are not known; masks of segments do not ask.
        words: as `Prompts.words`; -1 at positions that belong to no word of the prompt.
        parts, shots: as of `Prompts`; of generated tokens ``Part.NONE`` and 0. ``None`` where they
            are not known.
    """

    segments: Int8[Tensor, "batch key_pos"]
    tokens: Int[Tensor, "batch key_pos"] | None = None
    words: Int[Tensor, "batch key_pos"] | None = None
    parts: Int8[Tensor, "batch key_pos"] | None = None
    shots: Int[Tensor, "batch key_pos"] | None = None

    @classmethod
    def of(cls, prompts: Prompts, device: Any = "cpu") -> "Positions":
        """Those of prompts."""
        names = "segments", "tokens", "words", "parts", "shots"
        return cls(**{name: getattr(prompts, name).to(device) for name in names})

    def behind(self, tokens: Int[Tensor, "batch key_pos"]) -> "Positions":
        """The same with generated tokens behind them, given all tokens."""
        n_new = tokens.shape[1] - self.segments.shape[1]

        def extended(values: Tensor | None, filler: int) -> Tensor | None:
            return None if values is None else pad(values, (0, n_new), value=filler)

        return Positions(
            pad(self.segments, (0, n_new), value=int(Segment.GENERATED)),
            tokens,
            extended(self.words, -1),
            extended(self.parts, int(Part.NONE)),
            extended(self.shots, 0),
        )

    def take(self, some: Int[Tensor, "row"]) -> "Positions":
        """Those of some of the prompts."""

        def chosen(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[some]

        rest = map(chosen, (self.tokens, self.words, self.parts, self.shots))
        return Positions(self.segments[some], *rest)


EdgeRule = Callable[[Positions, int], Bool[Tensor, "batch query_pos key_pos"]]


@dataclass(frozen=True)
class InductionEdges:
    """The edges of the induction pattern (Crosbie and Shutova 2024, section 5).

    Row ``i`` is cut off from key ``j`` where ``j`` directly follows an earlier occurrence of what
    stands at ``i``: of the same token; or, by "word", of the same word, label or delimiter with as
    many of its tokens still to come. Tokens that are no part of the prompt, such as generated ones,
    count by token in both cases.
    """

    match: Match | str = "token"

    def __post_init__(self) -> None:
        check_choice("match", self.match, ("token", "word"), error=MaskError)

    def __call__(
        self, positions: Positions, n_rows: int
    ) -> Bool[Tensor, "batch query_pos key_pos"]:
        """The edges of the last ``n_rows`` rows."""
        tokens, words = positions.tokens, positions.words
        if tokens is None or words is None:
            raise MaskError("induction edges ask for the tokens: give positions with tokens, words")
        first = tokens.shape[1] - n_rows
        same = tokens[:, first:, None] == tokens[:, None, :]
        if self.match == "word":
            known = words >= 0
            both = known[:, first:, None] & known[:, None, :]
            same = torch.where(both, words[:, first:, None] == words[:, None, :], same)
        real = positions.segments != Segment.PAD
        places = torch.arange(tokens.shape[1], device=tokens.device)
        earlier = same & real[:, None, :] & (places < places[first:, None])
        return pad(earlier, (1, 0))[..., :-1]
