"""How the rows of several runs lie in one call of a block."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from icl_locate.engine.shared.group import Group
from icl_locate.engine.shared.replay import repeat
from icl_locate.engine.shared.rows import CutMask, NotSharedError, Rows

Keys = tuple[Tensor, Tensor]
"""Keys and values ``[batch, kv_head, active, d_head]`` of one run."""


@dataclass(frozen=True)
class Layout:
    """How the rows of several runs lie in one call of a block.

    Attributes:
        rows: of each run: those that are computed, or those of which only keys are.
        beside: whether the runs lie beside each other in each prompt's row of the batch, over one
            copy of the static keys; else behind each other, as a larger batch.
    """

    n_runs: int
    group: Group
    rows: Rows
    beside: bool = False

    def join(self, values: Float[Tensor, "run batch active *rest"]) -> Tensor:
        """All runs' rows as one batch."""
        return values.transpose(0, 1).flatten(1, 2) if self.beside else values.flatten(0, 1)

    def split(self, values: Tensor) -> Float[Tensor, "run batch active *rest"]:
        """One batch's rows, run by run; a view where there can be one."""
        n, width = self.n_runs, self.rows.width
        if values.shape[1] != (n * width if self.beside else width):
            raise NotSharedError(f"a point gives values of shape {tuple(values.shape)}")
        if self.beside:
            return values.view(len(values), n, width, *values.shape[2:]).transpose(0, 1)
        return values.view(n, -1, *values.shape[1:])

    def own_keys(self, values: Tensor) -> Float[Tensor, "run batch kv_head active d_head"]:
        """What a cache holds beyond the static keys, run by run."""
        own = values[:, :, self.group.static.width :]
        if self.beside:
            shape = (*own.shape[:2], self.n_runs, self.rows.width, own.shape[3])
            return own.reshape(shape).movedim(2, 0)
        return own.reshape(self.n_runs, -1, *own.shape[1:])

    def static(self, values: Tensor) -> Tensor:
        """The clean run's keys or values that the runs see."""
        kept = self.group.static.take(values, dim=2)
        return kept if self.beside else repeat(kept, self.n_runs)

    def cut(self, cut: CutMask) -> CutMask:
        """The mask of one run, for all."""
        if self.beside:
            return cut.beside(self.n_runs, self.group.static.width)
        return cut.copies(self.n_runs)

    def take_rows(self, value: Tensor) -> Tensor:
        """The rows of an argument."""
        kept = self.rows.take(value)
        if self.beside:
            return kept.repeat(1, self.n_runs, *[1] * (kept.ndim - 2))
        return repeat(kept, self.n_runs)

    def take_keys(self, value: Tensor) -> Tensor:
        """The keys of an argument, as many as those of these rows."""
        if self.beside:
            return self.group.static.beside(*[self.rows] * self.n_runs).take(value, dim=3)
        return repeat(self.group.keys_of(self.rows).take(value, dim=3), self.n_runs)
