"""What learnt gates say of a model's heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_count, check_number
from icl_locate.checks.contents import check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import ResultError
from icl_locate.gates.config import Objective
from icl_locate.gates.hard_concrete import open_chance, settled_gates
from icl_locate.metrics import Metric
from icl_locate.studies.result import Measured

if TYPE_CHECKING:
    import pandas as pd


Head = tuple[int, int]


@short_repr("model", "task", "objective", "metric", "whole", "pruned", "n_epochs", "gates")
@dataclass(frozen=True)
class GatesResult(
    Measured,
    axes={"n_closed": "sizes"},
    form="icl_locate.GatesResult/2",
    former="icl_locate.GatesResult/1",
    tensors=("alpha", "curve"),
    labels=("objective", "n_epochs", "whole", "pruned", "metric", "provenance"),
    later=("statistics",),
):
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
        statistics: of the curve: each item's sufficient statistics of the metric.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    objective: str
    alpha: Float[Tensor, "layer head"]
    n_epochs: int
    whole: float
    pruned: float
    curve: Float[Tensor, "n_closed"]
    metric: str
    provenance: Mapping[str, Any]
    statistics: Float[Tensor, "n_closed item stat"] | None = None
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            objective=check_choice(
                "objective", self.objective, get_args(Objective), error=ResultError
            ),
            n_epochs=check_count("n_epochs", self.n_epochs, least=0, error=ResultError),
            whole=check_number("whole", self.whole, error=ResultError),
            pruned=check_number("pruned", self.pruned, error=ResultError),
        )
        check_table("alpha", self.alpha, (None, None))
        check_table("curve", self.curve, (None,))
        if not self.alpha.numel() or not 1 <= len(self.curve) <= 1 + self.alpha.numel():
            raise ResultError(
                f"alpha is of {self.alpha.numel()} heads, the curve of {len(self.curve)} points: "
                "expected one for each number of heads closed, from 0"
            )
        self._check()

    @property
    def sizes(self) -> range:
        """How many heads each point of the curve closes."""
        return range(len(self.curve))

    @property
    def scores(self) -> Float[Tensor, "n_closed"]:
        """The curve, as every result calls its scores."""
        return self.curve

    @property
    def gates(self) -> Float[Tensor, "layer head"]:
        """The gates, in [0, 1]."""
        return settled_gates(self.alpha)

    @property
    def closed(self) -> frozenset[Head]:
        """The heads whose gates are 0."""
        return closed_by(self.alpha)

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
    def doubts(self) -> tuple[str, ...]:
        """Why these gates may say little: training that its limit ended, or that closed nothing."""
        limit = self.provenance.get("max_epochs")
        found = []
        if limit is not None and self.n_epochs >= limit:
            found.append(
                f"training ended at its limit of {limit} epochs, not because it had settled: raise "
                "max_epochs"
            )
        if not self.closed:
            found.append(
                f"no gate closed in {self.n_epochs} epochs: raise learning_rate, penalty or "
                "patience, or lower start"
            )
        return tuple(found)

    @property
    def order(self) -> tuple[Head, ...]:
        """All heads, the lowest gate first: the order of ``curve``."""
        return order_of(self.alpha)

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


def order_of(alpha: Float[Tensor, "layer head"]) -> tuple[Head, ...]:
    """All heads, the lowest gate first."""
    n_heads = alpha.shape[1]
    return tuple(divmod(i, n_heads) for i in alpha.flatten().argsort(stable=True).tolist())


def closed_by(alpha: Float[Tensor, "layer head"]) -> frozenset[Head]:
    """The heads whose gates are 0."""
    return _heads(settled_gates(alpha) == 0)


def _heads(chosen: Tensor) -> frozenset[Head]:
    return frozenset((int(layer), int(head)) for layer, head in chosen.nonzero())
