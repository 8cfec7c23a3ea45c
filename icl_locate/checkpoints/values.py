"""Plain numbers and tensors that a measure gives, as a result with files and a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_items, refuse
from icl_locate.checks.contents import check_names, check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.models.bridge import Model
from icl_locate.records.saved import Saved
from icl_locate.studies.recipe import describe_model

if TYPE_CHECKING:
    import pandas as pd

ALONE = "value"
"""The name of a number or tensor that came without one."""


@short_repr("names", "shapes")
@dataclass(frozen=True)
class Values(Saved, form="icl_locate.Values/1", tensors=("flat",),
             labels=("names", "shapes", "provenance")):  # fmt: skip
    """Numbers and tensors by name.

    Attributes:
        names: what they are called.
        shapes: of each; () of a number.
        flat: all numbers in a row.
        provenance: model, fingerprint and versions.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    flat: Float[Tensor, "number"]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        shapes = check_items("shapes", self.shapes, "a shape for each name", error=ResultError)
        settle(
            self,
            names=check_names("names", self.names, distinct=True),
            shapes=tuple(tuple(map(int, shape)) for shape in shapes),
            provenance=check_recipe(self.provenance),
        )
        if len(self.shapes) != len(self.names):
            refuse("shapes", self.shapes, "a shape for each name", ResultError)
        check_table("flat", self.flat, (sum(map(prod, self.shapes)),), finite=False)

    @property
    def numbers(self) -> dict[str, float]:
        """Those that are single numbers."""
        single = [name for name, shape in zip(self.names, self.shapes, strict=True) if shape == ()]
        return {name: float(self[name]) for name in single}

    @checked(ResultError)
    def __getitem__(self, name: str) -> Float[Tensor, "*shape"]:
        """The number or tensor of a name.

        Raises:
            ResultError: if there is none.
        """
        place = self.names.index(check_choice("name", name, self.names, error=ResultError))
        start = sum(map(prod, self.shapes[:place]))
        size = prod(self.shapes[place])
        found: Tensor = self.flat[start : start + size].view(self.shapes[place])
        return found

    def to_dataframe(self) -> "pd.DataFrame":
        """One row with a column a number; where there are tensors: name, place, value, a row each.

        ``place`` is an entry's indices, such as "0, 3".
        """
        import pandas as pd

        if len(self.numbers) == len(self.names):
            return pd.DataFrame([self.numbers])
        rows = [
            (name, ", ".join(map(str, index)), float(self[name][tuple(index)]))
            for name in self.names
            for index in torch.ones_like(self[name]).nonzero().tolist()
        ]
        return pd.DataFrame(rows, columns=["name", "place", "value"])


def as_values(value: Any, model: Model) -> Values | None:
    """What a measure gave of a model; ``None`` if it is neither numbers nor tensors."""
    given = value if isinstance(value, Mapping) else {ALONE: value}
    tensors = {name: _tensor(item) for name, item in given.items()}
    known = {name: item for name, item in tensors.items() if item is not None}
    if not known or len(known) < len(tensors) or not all(isinstance(n, str) for n in known):
        return None
    flat = torch.cat([item.flatten() for item in known.values()])
    shapes = tuple(tuple(item.shape) for item in known.values())
    return Values(tuple(known), shapes, flat, describe_model(model))


def _tensor(value: Any) -> Tensor | None:
    """A number or an array of numbers in double precision; ``None`` if it is none."""
    if isinstance(value, (str, bytes)) or value is None:
        return None
    try:
        found = value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if found.is_complex() else found.detach().cpu().double()
