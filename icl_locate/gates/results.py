"""What learnt gates say of a model's heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.gates.hard_concrete import open_chance, settled_gates
from icl_locate.reprs import short_repr
from icl_locate.storage import load_tensors, save_tensors

if TYPE_CHECKING:
    import pandas as pd

_FORM = "icl_locate.GatesResult/1"
_TENSORS = ("alpha", "curve")
_LABELS = ("objective", "n_epochs", "whole", "pruned", "metric", "provenance")

Head = tuple[int, int]


@short_repr("model", "task", "objective", "metric", "whole", "pruned", "n_epochs", "gates")
@dataclass(frozen=True)
class GatesResult:
    """Learnt gates, and the score of the model with their heads closed.

    Attributes:
        objective: "prune": what closed can go, and what stayed open is enough. "break": what closed
            is needed, and what stayed open is not missed.
        alpha: the gates' parameters.
        n_epochs: that were trained.
        whole: the metric of the whole model.
        pruned: the metric with every closed head's output at zero.
        curve: the metric with 0, 1, 2, ... heads at zero, in the order of their gates, the lowest
            first.
        metric: its name.
        provenance: model, task, configuration, losses, versions.
    """

    objective: str
    alpha: Float[Tensor, "layer head"]
    n_epochs: int
    whole: float
    pruned: float
    curve: Float[Tensor, "n_closed"]
    metric: str
    provenance: Mapping[str, Any]

    @property
    def gates(self) -> Float[Tensor, "layer head"]:
        """The gates, in [0, 1]."""
        return settled_gates(self.alpha)

    @property
    def closed(self) -> frozenset[Head]:
        """The heads whose gates are 0."""
        return _heads(self.gates == 0)

    @property
    def open(self) -> frozenset[Head]:
        """The heads whose gates are not 0."""
        return _heads(self.gates > 0)

    @property
    def needed(self) -> frozenset[Head]:
        """The heads that the task needs, by this objective."""
        return self.open if self.objective == "prune" else self.closed

    @property
    def can_go(self) -> frozenset[Head]:
        """The heads that the task can do without, by this objective."""
        return self.closed if self.objective == "prune" else self.open

    @property
    def order(self) -> tuple[Head, ...]:
        """All heads, the lowest gate first: the order of ``curve``."""
        n_heads = self.alpha.shape[1]
        return tuple(divmod(i, n_heads) for i in self.alpha.flatten().argsort(stable=True).tolist())

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a head: layer, head, gate, chance of being open, closed."""
        import pandas as pd

        n_layers, n_heads = self.alpha.shape
        columns = {
            "layer": torch.arange(n_layers).repeat_interleave(n_heads),
            "head": torch.arange(n_heads).repeat(n_layers),
            "gate": self.gates,
            "open_chance": open_chance(self.alpha),
            "closed": self.gates == 0,
        }
        return pd.DataFrame({name: value.flatten().numpy() for name, value in columns.items()})

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (.safetensors) and beside it a .json of the same name; no pickle."""
        rest = {name: getattr(self, name) for name in _LABELS}
        return save_tensors(path, _FORM, {name: getattr(self, name) for name in _TENSORS}, rest)

    @classmethod
    def load(cls, path: str | Path) -> "GatesResult":
        """Read what `save` wrote.

        Raises:
            ResultError: if a file is missing, damaged, or not of this format.
        """
        tensors, rest = load_tensors(path, _FORM, _TENSORS, _LABELS)
        return cls(
            alpha=tensors["alpha"],
            curve=tensors["curve"],
            **{name: rest[name] for name in _LABELS},
        )


def _heads(chosen: Tensor) -> frozenset[Head]:
    return frozenset((int(layer), int(head)) for layer, head in chosen.nonzero())
