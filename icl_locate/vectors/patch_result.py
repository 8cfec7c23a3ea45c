"""What states of one task's prompts did in another's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_counts
from icl_locate.checks.contents import check_names, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.studies.beside import Beside
from icl_locate.studies.intervals import Spread


@short_repr("model", "task", "metric", "arms", "layers", "seeds", "unpatched", "donor", "scores")
@dataclass(frozen=True)
class Patched(
    Beside,
    axes={"arm": "arms", "layer": "layers", "seed": "seeds"},
    beside=("unpatched", "donor"),
    form="icl_locate.Patched/1",
    tensors=("statistics", "scores", "unpatched", "donor"),
    labels=("arms", "layers", "seeds", "metric", "provenance"),
):
    """How often prompts of one task give another's answer once some states are that one's.

    Attributes:
        arms: places whose states were put in, such as "all outputs"; behind each its controls,
            such as "all outputs: random" (states as long, in random directions) and "all outputs:
            shuffled" (of prompts whose labels were dealt out anew).
        layers: after which blocks states were taken, and put in.
        seeds: each drew other demonstrations.
        statistics: each query's sufficient statistics; the arms by layer, then ``unpatched`` and
            ``donor``.
        scores: the metric of the donor's answer.
        unpatched: the same of prompts into which nothing was put.
        donor: the same of the prompts that states were taken from: as much as there is to transfer.
        metric: the metric's name.
        provenance: model, tasks, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    arms: tuple[str, ...]
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    scores: Float[Tensor, "arm layer seed"]
    unpatched: Float[Tensor, "seed"]
    donor: Float[Tensor, "seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        layers = check_counts("layers", self.layers, least=0, ascending=True, error=ResultError)
        settle(self, layers=layers, arms=check_names("arms", self.arms, distinct=True))
        self._check()

    @property
    def transferred(self) -> Float[Tensor, "arm layer"]:
        """The share of the way from ``unpatched`` to ``donor``; NaN if these are the same."""
        way = self.donor.mean() - self.unpatched.mean()
        found: Tensor = (self.scores.mean(dim=-1) - self.unpatched.mean()) / way
        return found if way else found * float("nan")

    @checked(ResultError)
    def difference(self, arm: str, other: str) -> Spread:
        """How far one arm's score lies above another's at each layer, on the same queries.

        Raises:
            ResultError: if there is no such arm, or the metric is not known here.
        """
        names = {"arm": arm, "other": other}
        first, second = (
            self.arms.index(check_choice(name, value, self.arms, error=ResultError))
            for name, value in names.items()
        )
        spread = self.spread()
        return spread[first] - spread[second]
