"""Edits of states at chosen positions: the values of each row, and edits that contradict."""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.errors import MaskError
from icl_locate.hooks.points import check_point
from icl_locate.interventions.edits import Change, Edit, Point, Rows, Where
from icl_locate.interventions.places import chosen_positions, numbered
from icl_locate.interventions.states import FORMULAS, Formula, StateEdit, require_batch
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import check_origin
from icl_locate.prompts.tokens import Prompts

_ONE_A_ROW = ("replace", "interpolate", "steer")


def state_edits(model: Model, prompts: Prompts | None, parts: Sequence[StateEdit]) -> list[Edit]:
    """The edits of states, in the order in which they act.

    Raises:
        ModelError: if the model has no such point, or edits have no effect there.
        MaskError: a layer or head that the model does not have, positions that a prompt lacks,
            values of another width or for other prompts; edits that contradict each other.
    """
    if prompts is None:
        raise MaskError("states are edited at prompts' positions: give the prompts that are run")
    found: list[_Placed] = []
    for method in FORMULAS:
        for part in parts:
            if part.method == method:
                _check_place(model, part)
                placed = _Placed(part, prompts)
                for other in found:
                    placed.leave_to(other)
                found.append(placed)
    return [placed.edit() for placed in found if placed.touched.any() or placed.generated]


def _check_place(model: Model, part: StateEdit) -> None:
    """Refuse a layer, head or width that the model does not have, and values of other weights."""
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    if part.layer >= n_layers:
        raise MaskError(
            f"layer {part.layer} of a StateEdit is out of range: the model has layers 0 to "
            f"{n_layers - 1}"
        )
    if part.head is not None and part.head >= n_heads:
        raise MaskError(
            f"head {part.head} of a StateEdit is out of range: the model has heads 0 to "
            f"{n_heads - 1}"
        )
    width = check_point(model, cast(Point, part.point))
    if isinstance(part.values, Tensor) and part.values.shape[-1] != width:
        raise MaskError(
            f"values of a StateEdit are of width {part.values.shape[-1]}, but what passes "
            f"{part.point!r} is of width {width}: expected {width}"
        )
    if part.origin is not None:
        remedy = "measure them on this one, or leave origin out"
        check_origin("the vector of a StateEdit", part.origin, model, remedy, MaskError)


class _Placed:
    """An edit of states, and the rows of some prompts that it has."""

    def __init__(self, part: StateEdit, prompts: Prompts) -> None:
        self.part = part
        self.numbers = self._number(part, prompts)
        chosen = chosen_positions(part.places, prompts)
        self.touched = chosen | (part.generated & (prompts.segments == Segment.GENERATED))
        self.generated = part.generated

    @staticmethod
    def _number(part: StateEdit, prompts: Prompts) -> Int[Tensor, "batch pos"]:
        """Which of its prompt's values each position takes.

        Raises:
            MaskError: naming the first prompt that has other numbers of positions and values.
        """
        require_batch(part, len(prompts))
        chosen = chosen_positions(part.places, prompts)
        values = part.values
        if isinstance(values, Tensor) and part.by_position:
            n_given = (~values.isnan().all(dim=-1)).sum(dim=1).cpu()
            n_chosen = chosen.sum(dim=1)
            uneven = n_given != n_chosen
            if uneven.any():
                i = int(uneven.nonzero()[0])
                raise MaskError(
                    f"a StateEdit has values for {int(n_given[i])} positions of prompt {i}, where "
                    f"at names {int(n_chosen[i])}: give one for each, and NaN behind them where "
                    "other prompts have more"
                )
        return numbered(chosen)

    def leave_to(self, other: "_Placed") -> None:
        """Leave rows to an equal edit that has them already.

        Raises:
            MaskError: if the other edit sets them otherwise.
        """
        one, two = self.part, other.part
        keys = [(p.method, p.layer, p.point, p.head) for p in (one, two)]
        if one.method not in _ONE_A_ROW or keys[0] != keys[1]:
            return
        both = self.touched & other.touched
        generated = self.generated and other.generated
        if not both.any() and not generated:
            return
        if one.weight != two.weight or not self._agrees(other, both, generated):
            at = "generated tokens"
            if both.any():
                at = "prompt {}, position {}".format(*both.nonzero()[0].tolist())
            head = "" if one.head is None else f", head {one.head}"
            raise MaskError(
                f"two StateEdits {one.method} the same states (layer {one.layer}, {one.point}"
                f"{head}; {at} of the padded prompts) by different values: keep one of them"
            )
        self.touched = self.touched & ~both
        self.generated = self.generated and not generated

    def _agrees(self, other: "_Placed", both: Bool[Tensor, "batch pos"], generated: bool) -> bool:
        """Whether two edits have the same values where both act."""
        same = self.part.values is other.part.values
        if same and (not self.part.by_position or self.numbers.equal(other.numbers)):
            return True
        if any(
            isinstance(v, Tensor) and v.requires_grad for v in (self.part.values, other.part.values)
        ):
            return False  # the next step makes them unequal
        prompts, positions = both.nonzero(as_tuple=True)
        if generated:  # each prompt's first number stands for them
            prompts = torch.cat([prompts, torch.arange(len(both))])
            positions = torch.cat([positions, torch.zeros(len(both), dtype=torch.long)])
        where = Where(prompts, positions[:, None], positions[:, None])
        mine, theirs = (
            _values(t.part.values, t.numbers, where).expand(len(prompts), 1, -1).cpu()
            for t in (self, other)
        )
        return torch.equal(mine, theirs.to(mine.dtype))

    def edit(self) -> Edit:
        """What it does to the rows that are left to it."""
        part = self.part
        act = partial(_act, FORMULAS[part.method], part.values, self.numbers, part.weight)
        change: Change = act if part.head is None else partial(_act_on_head, act, part.head)
        return Edit(part.layer, cast(Point, part.point), change, self.touched, self.generated)


def _values(
    values: float | Tensor, numbers: Int[Tensor, "batch pos"], where: Where
) -> Float[Tensor, "#row #row_pos #width"]:
    """The values of some rows."""
    if not isinstance(values, Tensor):
        return torch.full((1, 1, 1), values)
    if values.ndim == 1:
        return values[None, None]
    prompts = where.prompts.to(values.device)
    if values.ndim == 2:
        return values[prompts][:, None]
    last = numbers.shape[1] - 1
    chosen = numbers[where.prompts[:, None], where.positions.clamp(max=last)]
    return values[prompts[:, None], chosen.to(values.device)]


def _act(
    formula: Formula,
    values: float | Tensor,
    numbers: Int[Tensor, "batch pos"],
    weight: float,
    state: Tensor,
    rows: Rows,
) -> Tensor:
    precise = torch.promote_types(state.dtype, torch.float32)
    given = _values(values, numbers, rows()).to(state.device, precise)
    return formula(state.to(precise), given, weight).to(state.dtype)


def _act_on_head(act: Change, head: int, z: Tensor, rows: Rows) -> Tensor:
    new = z.clone()
    new[:, :, head] = act(z[:, :, head], rows)
    return new
