"""Some positions of each prompt, and attention masks cut to them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class NotSharedError(Exception):
    """The shared engine is not exact here; the "hooks" engine must run."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Positions of each prompt, padded with position 0 where ``valid`` is False."""

    positions: Int[Tensor, "batch kept"]
    valid: Bool[Tensor, "batch kept"]

    @classmethod
    def where(cls, chosen: Bool[Tensor, "batch pos"]) -> "Rows":
        """The chosen positions of each prompt, in order."""
        counts = chosen.sum(dim=1)
        width = int(counts.max())
        order = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        valid = torch.arange(width, device=chosen.device) < counts[:, None]
        return cls(order.masked_fill(~valid, 0), valid)

    @property
    def width(self) -> int:
        """The most positions that a prompt has here."""
        return self.positions.shape[1]

    def to(self, device: torch.device | str) -> "Rows":
        """The same rows on a device."""
        return Rows(self.positions.to(device), self.valid.to(device))

    def beside(self, *others: "Rows") -> "Rows":
        """These rows, and others behind them."""
        parts = (self, *others)
        return Rows(
            torch.cat([rows.positions for rows in parts], dim=1),
            torch.cat([rows.valid for rows in parts], dim=1),
        )

    def take(self, values: Tensor, dim: int = 1) -> Tensor:
        """``values`` at these positions of dimension ``dim``; dimension 0 is the batch, or 1."""
        if values.shape[0] == 1:
            values = values.expand(len(self.positions), *values.shape[1:])
        shape = [1] * values.ndim
        shape[0], shape[dim] = self.positions.shape
        sizes = list(values.shape)
        sizes[dim] = self.width
        return values.gather(dim, self.positions.view(shape).expand(sizes))

    def places_in(
        self, rows: "Rows"
    ) -> tuple[Int[Tensor, "batch kept"], Bool[Tensor, "batch kept"]]:
        """Where each of these positions stands among other rows, and whether it stands there."""
        if not rows.width:
            return torch.zeros_like(self.positions), torch.zeros_like(self.valid)
        same = self.positions[:, :, None] == rows.positions[:, None, :]
        same &= rows.valid[:, None, :]
        return same.int().argmax(dim=-1), same.any(dim=-1) & self.valid

    def chosen(self, width: int) -> Bool[Tensor, "batch pos"]:
        """Which of ``width`` positions these are."""
        counts = torch.zeros(len(self.positions), width, dtype=torch.long, device=self.valid.device)
        return counts.scatter_add(1, self.positions, self.valid.long()) > 0


@dataclass(frozen=True)
class CutMask:
    """An attention mask for some rows, and the rows that it leaves without any visible key.

    Attributes:
        silent: rows that, left so by every head, get no attention output, not even a bias.
    """

    mask: Float[Tensor, "batch #head active key_pos"]
    empty: Bool[Tensor, "batch #head active"] | None
    silent: Bool[Tensor, "batch active"] | None = None

    @classmethod
    def of(
        cls,
        mask: Float[Tensor, "batch #head active key_pos"],
        silent: Bool[Tensor, "batch active"] | None = None,
    ) -> "CutMask":
        """The mask, and its empty rows where there are any."""
        empty = mask.amax(dim=-1) <= torch.finfo(mask.dtype).min / 2
        if not empty.any():
            return cls(mask, None)
        return cls(mask, empty, None if silent is None else silent & empty.all(dim=1))

    def copies(self, n: int) -> "CutMask":
        """The same mask for ``n`` copies of the batch."""
        if n == 1:
            return self
        empty = None if self.empty is None else self.empty.repeat(n, 1, 1)
        silent = None if self.silent is None else self.silent.repeat(n, 1)
        return CutMask(self.mask.repeat(n, 1, 1, 1), empty, silent)

    def beside(self, n: int, n_static: int) -> "CutMask":
        """The mask of ``n`` copies of the rows beside each other, over one batch.

        All see the first ``n_static`` keys; of those behind them each copy sees its own alone.
        """
        if n == 1:
            return self
        batch, n_heads, width, n_keys = self.mask.shape
        lowest = torch.finfo(self.mask.dtype).min
        own = self.mask.new_full((batch, n_heads, n, width, n, n_keys - n_static), lowest)
        each = torch.arange(n, device=own.device)
        own[:, :, each, :, each] = self.mask[..., n_static:]
        static = self.mask[..., :n_static].repeat(1, 1, n, 1)
        mask = torch.cat([static, own.flatten(4, 5).flatten(2, 3)], dim=-1)
        empty = None if self.empty is None else self.empty.repeat(1, 1, n)
        silent = None if self.silent is None else self.silent.repeat(1, n)
        return CutMask(mask, empty, silent)
