"""States that are edited at chosen positions: what is done to them, with which values, where."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.checks.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    refuse,
    show,
)
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import MaskError
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.edits import POINTS, Point
from icl_locate.interventions.places import Places, as_places

StateMethod = Literal["replace", "add", "scale", "interpolate", "steer"]
_VALUES = (
    "a tensor of floats [width], [batch, width] or [batch, pos, width] (scale: or a number), such "
    "as icl_locate.states gives"
)


@short_repr("method", "values", "layer", "at", "point", "head", "weight", "generated")
@dataclass(frozen=True, eq=False)  # tensors are no keys
class StateEdit(Intervention):
    """Edit the states that pass a point of one layer, at chosen positions.

    At one place replacements act first, then interpolations, scales, additions and steering. Of
    replacements, interpolations and steering a row takes one; what several edits add or scale
    there adds and multiplies up. Ablated heads are replaced, and scaled, before all of these.

    Attributes:
        method: "replace" by the values; "add" them; "scale" by them; "interpolate",
            ``(1 - weight) * state + weight * value``; "steer" (Liu et al. 2023): turn the state x
            towards the value v, ``|x| normalise(x/|x| + weight (1 + max(0, -cos(x, v))) v/|v|)``.
        values: of all rows ``[width]``, of each prompt ``[batch, width]``, or of each prompt's
            chosen positions in their order ``[batch, pos, width]`` (NaN behind a prompt's last
            one). The width is d_model; of one head, d_head. "scale" takes a number, too.
        layer: from 0.
        at: "last" (the prompt's last token), "all", a `Segment` or its name, an `At`, or a list of
            these, all of which are meant; with ``generated=True`` the list may be empty.
        point: "resid_pre" and "resid_post", the residual stream before and after a block;
            "attn_out" and "mlp_out", what its attention and its MLP add to it; "z", the outputs of
            a head before the output projection.
        head: which, at the point "z".
        weight: of "interpolate", 0 to 1; of "steer", any number (a negative one turns away).
        generated: whether tokens that follow the prompts (generated ones, and targets that are
            scored) are edited, too, each by the values of all rows or of its prompt.
        origin: the recipe of what the values were measured on: a model with another ``fingerprint``
            than stands in it is refused. ``None``: any model takes them.

    Raises:
        MaskError: if an argument is none of these, or does not go with the others.
    """

    method: StateMethod | str
    values: float | Float[Tensor, "*batch_pos width"]
    layer: int
    at: Any = "last"
    point: Point | str = "resid_post"
    head: int | None = None
    weight: float = 1.0
    generated: bool = False
    origin: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, _METHODS, error=MaskError)
        check_choice("point", self.point, POINTS, error=MaskError)
        taken = {
            "layer": check_count("layer", self.layer, least=0, error=MaskError),
            "generated": check_flag("generated", self.generated, error=MaskError),
            "at": as_places(self.at),
            "weight": self._check_weight(),
            "values": self._check_values(),
        }
        if self.origin is not None:
            taken["origin"] = self._check_origin()
        if self.head is not None:
            taken["head"] = check_count("head", self.head, least=0, error=MaskError)
        for name, value in taken.items():
            object.__setattr__(self, name, value)
        self._check_together()

    def _check_origin(self) -> dict[str, Any]:
        """Of a recipe, what tells weights apart."""
        origin = self.origin
        if not isinstance(origin, Mapping) or not isinstance(origin.get("fingerprint"), str):
            refuse("origin", origin, "a recipe with a fingerprint, such as provenance", MaskError)
        return {name: origin.get(name) for name in ("model", "fingerprint")}

    def _check_weight(self) -> float:
        if self.method == "interpolate":
            return check_number("weight", self.weight, least=0.0, most=1.0, error=MaskError)
        weight = check_number("weight", self.weight, error=MaskError)
        if self.method != "steer" and weight != 1.0:
            raise MaskError(
                f"weight is {weight:g}, but {self.method!r} takes none: use 'interpolate' or "
                "'steer', or multiply the values"
            )
        return weight

    def _check_values(self) -> float | Tensor:
        values = self.values
        if self.method == "scale" and getattr(values, "shape", ()) == ():
            return check_number("values", values, error=MaskError)
        if not isinstance(values, Tensor) or not 1 <= values.ndim <= 3:
            refuse("values", values, _VALUES, MaskError)
        if len(values) and not values.numel():
            refuse("values", values, _VALUES, MaskError)
        if not values.is_floating_point():
            raise MaskError(f"values are of {values.dtype}: expected {_VALUES}; say values.float()")
        if not _are_numbers(values):
            raise MaskError(
                "values hold NaN or infinity: expected numbers (NaN only where a prompt has no "
                "more positions)"
            )
        if self.method == "steer" and not bool((values != 0).any(dim=-1).all()):
            raise MaskError("values hold a vector of zeros, which has no direction to steer in")
        return values

    def _check_together(self) -> None:
        """Refuse arguments that do not go with each other."""
        if (self.head is None) == (self.point == "z"):
            raise MaskError(
                f"head is {self.head} and point {self.point!r}: the point 'z' takes a head, such "
                "as head=2, and no other point does"
            )
        if any(place.segment is Segment.GENERATED for place in self.at):
            raise MaskError("at names GENERATED, which prompts never hold: say generated=True")
        if not self.at and not self.generated:
            raise MaskError("at names no positions, so that nothing is edited: name some")
        if self.by_position and (self.generated or not self.at):
            raise MaskError(
                f"values are {show(self.values)}, one for each of a prompt's positions, which "
                "generated tokens do not have: give values [width] or [batch, width]"
            )

    @property
    def places(self) -> Places:
        """The positions, as ``__post_init__`` left them."""
        return tuple(self.at)

    @property
    def by_prompt(self) -> bool:
        """Whether each prompt has values of its own."""
        return isinstance(self.values, Tensor) and self.values.ndim > 1

    @property
    def by_position(self) -> bool:
        """Whether each of a prompt's positions has a value of its own."""
        return isinstance(self.values, Tensor) and self.values.ndim == 3

    @checked(MaskError)
    def take(self, items: Sequence[int]) -> "StateEdit":
        """The edit of some of the prompts.

        Raises:
            MaskError: if it has no values for one of them.
        """
        values = self.values
        if not isinstance(values, Tensor) or not self.by_prompt:
            return self
        for item in items:
            if item >= len(values):
                raise MaskError(
                    f"items name prompt {item}, but a StateEdit has values for {len(values)} "
                    "prompts, numbered from 0"
                )
        return self if [*items] == [*range(len(values))] else replace(self, values=values[[*items]])


def _are_numbers(values: Tensor) -> bool:
    """Whether all are, but for those behind each prompt's last position."""
    finite = values.isfinite().all(dim=-1)
    if values.ndim < 3:
        return bool(finite.all())
    absent = values.isnan().all(dim=-1)
    n_given = (~absent).sum(dim=1, keepdim=True)
    behind = torch.arange(values.shape[1], device=values.device) >= n_given
    return bool((n_given > 0).all() and (absent == behind).all() and (finite | absent).all())


def require_batch(intervention: Intervention, n_prompts: int) -> None:
    """Refuse an intervention with values for another number of prompts.

    Raises:
        MaskError: saying both numbers.
    """
    for part in intervention.parts:
        values = part.values if isinstance(part, StateEdit) and part.by_prompt else None
        if isinstance(values, Tensor) and len(values) != n_prompts:
            raise MaskError(
                f"a StateEdit has values for {len(values)} prompts, but runs on {n_prompts}: give "
                "as many, in their order, or values [width] for all"
            )


Formula = Callable[[Tensor, Tensor, float], Tensor]


def _replace(state: Tensor, value: Tensor, weight: float) -> Tensor:  # noqa: ARG001
    return value.expand_as(state)


def _interpolate(state: Tensor, value: Tensor, weight: float) -> Tensor:
    return (1.0 - weight) * state + weight * value


def _scale(state: Tensor, value: Tensor, weight: float) -> Tensor:  # noqa: ARG001
    return state * value


def _add(state: Tensor, value: Tensor, weight: float) -> Tensor:  # noqa: ARG001
    return state + value


def _steer(state: Tensor, value: Tensor, weight: float) -> Tensor:
    normalise = torch.nn.functional.normalize
    length: Tensor = torch.linalg.vector_norm(state, dim=-1, keepdim=True)
    direction, wanted = normalise(state, dim=-1), normalise(value, dim=-1)
    cosine = (direction * wanted).sum(dim=-1, keepdim=True)
    turned = direction + weight * (1.0 + (-cosine).clamp(min=0.0)) * wanted
    steered: Tensor = length * normalise(turned, dim=-1)
    return steered


FORMULAS: dict[str, Formula] = {
    "replace": _replace,
    "interpolate": _interpolate,
    "scale": _scale,
    "add": _add,
    "steer": _steer,
}
"""New states from states, values and a weight, by method, in the order in which they act."""
_METHODS = tuple(FORMULAS)
