"""The attention that heads pay to some cells of random sequences."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icl_locate.checks.reprs import short_repr
from icl_locate.errors import PromptError
from icl_locate.hooks import watch_attention
from icl_locate.induction.random_tokens import opening_tokens
from icl_locate.induction.sequences import Sequences
from icl_locate.models.bridge import Model
from icl_locate.models.loading import check_model
from icl_locate.studies.attention import paid_to


def to_previous_token(
    model: Model, tokens: Int[Tensor, "sequence pos"], length: int, batch_size: int
) -> Float[Tensor, "layer head"]:
    """The attention to the token before, mean over the last ``length - 1`` rows and sequences."""
    rows = torch.arange(tokens.shape[1] - length + 1, tokens.shape[1])
    return attention_to(model, tokens, rows, rows - 1, len(rows), batch_size).raw


@short_repr("n_rows", "has_bos")
@dataclass
class Attention:
    """Sums of the attention that heads pay to some cells, over rows and sequences."""

    rows: Int[Tensor, "cell"]
    columns: Int[Tensor, "cell"]
    n_rows: int
    has_bos: bool
    _raw: dict[int, Tensor] = field(default_factory=dict)
    _shares: dict[int, Tensor] = field(default_factory=dict)
    _n_sequences: dict[int, int] = field(default_factory=dict)

    def add(self, layer: int, pattern: Float[Tensor, "batch head query_pos key_pos"]) -> None:
        """Add one layer's attention on a batch of sequences."""
        paid = paid_to(pattern, self.rows, self.columns).float()
        bos = torch.zeros_like(self.columns)
        to_bos = (
            paid_to(pattern, self.rows, bos).float() if self.has_bos else torch.zeros_like(paid)
        )
        shares = paid / (1 - to_bos).clamp(min=torch.finfo(pattern.dtype).eps)
        for sums, values in ((self._raw, paid), (self._shares, shares)):
            total = values.sum(dim=(0, -1)).cpu().double()
            sums[layer] = sums[layer] + total if layer in sums else total
        self._n_sequences[layer] = self._n_sequences.get(layer, 0) + len(pattern)

    @property
    def raw(self) -> Float[Tensor, "layer head"]:
        """The attention paid to the cells, mean over rows and sequences."""
        return self._mean(self._raw)

    @property
    def normalized(self) -> Float[Tensor, "layer head"]:
        """The same as a share of what each row does not pay to BOS."""
        return self._mean(self._shares)

    def _mean(self, sums: dict[int, Tensor]) -> Tensor:
        means = [sums[layer] / (self.n_rows * self._n_sequences[layer]) for layer in sorted(sums)]
        return torch.stack(means).float()


def match_prefixes(chosen: Sequences, length: int, batch_size: int, *, repeats: bool) -> Attention:
    """The attention to the cells that follow an earlier occurrence in repeated copies.

    Without repeats: to the same cells of tokens that do not repeat.
    """
    n_copies = chosen.n_copies
    if n_copies < 2:
        raise PromptError(f"n_copies is {n_copies}: expected 2 or more, or nothing repeats")
    tokens = chosen.repeated(length) if repeats else chosen.unrepeated(length)
    rows, columns = matching_cells(tokens.shape[1] - n_copies * length, length, n_copies)
    n_rows = (n_copies - 1) * (length - 1)
    return attention_to(chosen.model, tokens, rows, columns, n_rows, batch_size)


def matching_cells(
    first: int, length: int, n_copies: int
) -> tuple[Int[Tensor, "cell"], Int[Tensor, "cell"]]:
    """Rows of copies 2 and later, and the columns that follow their tokens' earlier occurrences.

    Args:
        first: where the first copy begins.
    """
    cells = [
        (first + copy * length + place, first + earlier * length + place + 1)
        for copy in range(1, n_copies)
        for place in range(length - 1)
        for earlier in range(copy)
    ]
    rows, columns = torch.tensor(cells).T
    return rows, columns


def attention_to(
    model: Model,
    tokens: Int[Tensor, "sequence pos"],
    rows: Int[Tensor, "cell"],
    columns: Int[Tensor, "cell"],
    n_rows: int,
    batch_size: int,
) -> Attention:
    """The attention of every head to some cells, (row, column), of sequences without padding.

    Args:
        n_rows: by how many rows its sum is divided.
    """
    check_model(model)
    device = model.cfg.device
    found = Attention(rows.to(device), columns.to(device), n_rows, bool(opening_tokens(model)))
    with watch_attention(model, "hook_pattern", found.add):
        for batch in torch.split(tokens.to(device), batch_size):
            model(batch, attention_mask=torch.ones_like(batch))
    return found
