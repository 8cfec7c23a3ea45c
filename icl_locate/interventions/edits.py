"""Edits of values that pass a point of a layer: what is changed, on which rows, and how.

An `Edit` is what an intervention that is no mask comes to on a model: whatever runs the model asks
it for nothing but new values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate.checks.reprs import short_repr

Point = Literal["resid_pre", "z", "attn_out", "mlp_out", "resid_post"]
"""Before a block; its heads' outputs; what its attention and its MLP add; after the block."""
POINTS: tuple[Point, ...] = ("resid_pre", "z", "attn_out", "mlp_out", "resid_post")
"""In the order in which values pass them."""


@short_repr("prompts", "positions", "places")
@dataclass(frozen=True)
class Where:
    """Which rows run.

    Attributes:
        prompts: the number of each row's prompt in its batch.
        positions: the rows' positions in the padded texts; generated tokens follow the prompts.
        places: their places in the texts themselves, from 0; padding's is 0.
    """

    prompts: Int[Tensor, "row"]
    positions: Int[Tensor, "#row pos"]
    places: Int[Tensor, "#row pos"]


Rows = Callable[[], Where]
"""Asked only by changes that need it: where some rows are dropped, nobody can say."""
Change = Callable[[Tensor, Rows], Tensor]
"""Takes the values [row, pos, ...] at a point (z: [row, pos, head, d_head]); gives new ones."""


@short_repr("layer", "point", "touched", "generated")
@dataclass(frozen=True, eq=False)
class Edit:
    """A change of the values that pass one point of one layer.

    Attributes:
        change: gives the new values of all rows that it is shown.
        touched: which rows of the prompts take them (those of targets that are appended included);
            ``None``: every row.
        generated: whether the rows of tokens that follow these take them, too.
    """

    layer: int
    point: Point
    change: Change
    touched: Bool[Tensor, "batch pos"] | None = None
    generated: bool = True

    def __call__(self, value: Tensor, rows: Rows) -> Tensor:
        """The values, new on the rows that the edit touches."""
        if self.touched is None:
            return self.change(value, rows)
        chosen = self.rows(rows())
        if not chosen.any():
            return value
        chosen = chosen.reshape(*chosen.shape, *[1] * (value.ndim - 2)).to(value.device)
        return torch.where(chosen, self.change(value, rows), value)

    def rows(self, where: Where) -> Bool[Tensor, "row pos"]:
        """Which of the rows that run it touches."""
        shape = len(where.prompts), where.positions.shape[1]
        if self.touched is None:
            return torch.ones(shape, dtype=torch.bool)
        width = self.touched.shape[1]
        known = self.touched[where.prompts[:, None], where.positions.clamp(max=width - 1)]
        behind = (where.positions >= width).expand(shape)
        return torch.where(behind, self.generated, known)
