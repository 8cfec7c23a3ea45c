"""What a head attends to on random tokens: to what followed the same token, to the one before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_counts
from icl_locate.checks.contents import check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import PromptError, ResultError
from icl_locate.induction.attention import match_prefixes, to_previous_token
from icl_locate.induction.copying import copied_share
from icl_locate.induction.effects import HeadEffects
from icl_locate.induction.random_tokens import TokenIds
from icl_locate.induction.sequences import Sequences, TokenRows
from icl_locate.models.bridge import Model
from icl_locate.records.saved import Saved
from icl_locate.studies.recipe import describe_model

if TYPE_CHECKING:
    import pandas as pd

INDUCTION = 0.1
"""A head that scores less is no induction head: not a tenth of its attention follows the pattern.

No head of the random models that were tried scored 0.03 or more, at the shortest lengths.
"""


@short_repr("lengths", "induction", "copying", "previous_token")
@dataclass(frozen=True)
class HeadScores(
    Saved,
    form="icl_locate.HeadScores/2",
    tensors=("prefix_matching", "control", "normalized", "previous_token", "copying"),
    labels=("lengths", "provenance"),
):
    """What every head does on random tokens.

    Attributes:
        lengths: of the sequences that were repeated.
        prefix_matching: attention paid to what followed the row's token in earlier copies, in
            [0, 1], for each length.
        control: attention paid to the same cells on tokens that do not repeat.
        normalized: the share of the prefix-matching attention in what is not paid to BOS. It can be
            near 1 where the attention itself is near 0.
        previous_token: attention paid to the token before, on tokens that do not repeat.
        copying: as `copying_scores` says.
        provenance: model, fingerprint and versions as every result has them; and the sequences:
            ``n_copies``, ``n_sequences``, ``seed``; ``drawn_from`` is "vocabulary", "tokens" or
            "sequences", ``n_tokens`` how many different tokens there were to draw from. No task is
            asked: no prompts, metric or shots.
    """

    lengths: tuple[int, ...]
    prefix_matching: Float[Tensor, "length layer head"]
    control: Float[Tensor, "length layer head"]
    normalized: Float[Tensor, "length layer head"]
    previous_token: Float[Tensor, "layer head"]
    copying: Float[Tensor, "layer head"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(
            self,
            lengths=check_counts("lengths", self.lengths, least=0, error=ResultError),
            provenance=check_recipe(self.provenance),
        )
        check_table("copying", self.copying, (None, None))
        heads = tuple(self.copying.shape)
        check_table("previous_token", self.previous_token, heads)
        for name in ("prefix_matching", "control", "normalized"):
            check_table(name, getattr(self, name), (len(self.lengths), *heads))

    @property
    def induction(self) -> Float[Tensor, "layer head"]:
        """The least over lengths of prefix matching above its control: what tells induction heads.

        A head with a fixed offset matches at no second length, and a head that attends by position
        does the same on the control.
        """
        return (self.prefix_matching - self.control).amin(dim=0)

    @checked(ResultError)
    def to_dataframe(self, effects: HeadEffects | None = None) -> "pd.DataFrame":
        """One row a head, the highest induction score first.

        Args:
            effects: what `head_effects` gave; adds what the model loses without each head, with its
                interval.
        """
        import pandas as pd

        n_layers, n_heads = self.copying.shape
        columns: dict[str, Tensor] = {
            "layer": torch.arange(n_layers).repeat_interleave(n_heads),
            "head": torch.arange(n_heads).repeat(n_layers),
            "induction": self.induction,
        }
        for i, length in enumerate(self.lengths):
            columns[f"prefix_matching_{length}"] = self.prefix_matching[i]
            columns[f"control_{length}"] = self.control[i]
        columns["normalized"] = self.normalized.amin(dim=0)
        columns |= {"copying": self.copying, "previous_token": self.previous_token}
        frame = pd.DataFrame({name: value.flatten().numpy() for name, value in columns.items()})
        if effects is not None:
            frame = frame.merge(effects.to_dataframe(), how="left", on=["layer", "head"])
        return frame.sort_values("induction", ascending=False, ignore_index=True)


@checked(PromptError)
@torch.no_grad()
def head_scores(
    model: Model,
    *,
    lengths: int | Sequence[int] | None = None,
    n_copies: int | None = None,
    n_sequences: int = 5,
    seed: int = 0,
    tokens: TokenIds | None = None,
    sequences: TokenRows | None = None,
    batch_size: int = 8,
) -> HeadScores:
    """All scores of every head: prefix matching with its control, previous token, copying.

    Attention patterns are reduced layer by layer as they pass; none is kept.

    Args:
        lengths: of the sequences of distinct random tokens that are repeated; copying and previous
            tokens are measured on the greatest. ``None`` means 50, 37 and 29, or three shorter ones
            where a small context or vocabulary asks for them.
        n_copies: how often each stands there, behind BOS; ``None`` means 4, or fewer if the
            context holds no four copies of three lengths.
        n_sequences: how many random ones of each length.
        seed: of the tokens.
        tokens: ids to draw from, such as `task_tokens`; ``None`` means what ordinary texts hold:
            no rare, special, added or reserved tokens, and no bytes that stand in for characters.
        sequences: token ids to be repeated in place of random ones; each length takes the first of
            them, and the control draws from their tokens.
        batch_size: sequences that run at once.

    Raises:
        PromptError: if the sizes are out of range, or exceed the model's context or vocabulary.
    """
    chosen = Sequences.fit(
        model, lengths, n_copies=n_copies, n_sequences=n_sequences, seed=seed, tokens=tokens,
        sequences=sequences,
    )  # fmt: skip
    raw, control, normalized = [], [], []
    for length in chosen.lengths:
        found = match_prefixes(chosen, length, batch_size, repeats=True)
        raw.append(found.raw)
        normalized.append(found.normalized)
        control.append(match_prefixes(chosen, length, batch_size, repeats=False).raw)
    longest = chosen.repeated(max(chosen.lengths), 1)
    return HeadScores(
        lengths=chosen.lengths,
        prefix_matching=torch.stack(raw),
        control=torch.stack(control),
        normalized=torch.stack(normalized),
        previous_token=to_previous_token(model, longest, max(chosen.lengths), batch_size),
        copying=copied_share(model, longest, max(chosen.lengths), batch_size),
        provenance={**describe_model(model), **chosen.recipe},
    )


@checked(PromptError)
@torch.no_grad()
def prefix_matching_scores(
    model: Model,
    *,
    lengths: int | Sequence[int] | None = None,
    n_copies: int | None = None,
    n_sequences: int = 5,
    seed: int = 0,
    tokens: TokenIds | None = None,
    sequences: TokenRows | None = None,
    control: bool = True,
    normalize: bool = False,
    batch_size: int = 8,
) -> Float[Tensor, "layer head"]:
    """How much attention each head pays to what followed the same token before, in [-1, 1].

    Distinct random tokens stand ``n_copies`` times behind BOS. In copies 2 and later each row's
    attention to the tokens after its own token's earlier occurrences counts; pairs across the end
    of a copy do not. The score is the mean over rows and sequences, the attention that goes to the
    same cells where nothing repeats subtracted, and the least of it over the lengths: so neither a
    head with a fixed offset nor one that attends by position passes.

    ``lengths=(50,), control=False`` is the score of Crosbie and Shutova (2024, section 3.1).

    Args:
        lengths, n_copies, n_sequences, seed, tokens, sequences, batch_size: as `head_scores` says.
        control: whether to subtract the attention to the same cells on unrepeated tokens.
        normalize: whether to take the share of what a row does not pay to BOS.

    Raises:
        PromptError: if the sizes are out of range, or exceed the model's context or vocabulary.
    """
    chosen = Sequences.fit(
        model, lengths, n_copies=n_copies, n_sequences=n_sequences, seed=seed, tokens=tokens,
        sequences=sequences,
    )  # fmt: skip

    def score(length: int, *, repeats: bool) -> Tensor:
        found = match_prefixes(chosen, length, batch_size, repeats=repeats)
        return found.normalized if normalize else found.raw

    scores = [
        score(length, repeats=True) - (score(length, repeats=False) if control else 0)
        for length in chosen.lengths
    ]
    return torch.stack(scores).amin(dim=0)


@checked(PromptError)
@torch.no_grad()
def previous_token_scores(
    model: Model,
    *,
    length: int | None = None,
    n_sequences: int = 5,
    seed: int = 0,
    tokens: TokenIds | None = None,
    sequences: TokenRows | None = None,
    batch_size: int = 8,
) -> Float[Tensor, "layer head"]:
    """How much attention each head pays to the token before, in [0, 1], on distinct random tokens.

    The mean over rows from the second token behind BOS on, and over sequences.

    Args:
        length: of a sequence; ``None`` means 50, or as many as context and vocabulary hold.
        n_sequences, seed, tokens, sequences, batch_size: as `head_scores` says.

    Raises:
        PromptError: if the sizes are out of range, or exceed the model's context or vocabulary.
    """
    chosen = Sequences.fit(
        model, length, n_lengths=1, n_copies=1, n_sequences=n_sequences, seed=seed, tokens=tokens,
        sequences=sequences,
    )  # fmt: skip
    n = chosen.lengths[0]
    return to_previous_token(model, chosen.repeated(n), n, batch_size)
