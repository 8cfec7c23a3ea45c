"""What states of one task's prompts did in another's."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.studies.intervals import Spread
from icl_locate.vectors.scores import LayerScores


@short_repr("model", "task", "metric", "arms", "layers", "seeds", "floor", "ceiling", "scores")
@dataclass(frozen=True)
class Patched(
    LayerScores,
    axes={"arm": "arms", "layer": "layers", "seed": "seeds"},
    form="icl_locate.Patched/1",
    tensors=("statistics", "scores", "ceiling", "floor"),
    labels=("arms", "layers", "seeds", "metric", "provenance"),
):
    """How often prompts of one task give another's answer once some states are that one's.

    Attributes:
        arms: places whose states were put in, such as "all outputs"; behind each its controls,
            such as "all outputs: random" (states as long, in random directions) and "all outputs:
            shuffled" (of prompts whose labels were dealt out anew).
        layers: after which blocks states were taken, and put in.
        seeds: each drew other demonstrations.
        statistics: each query's sufficient statistics; cell ``arm * n_layers + layer``, and behind
            them the ceiling and the floor.
        scores: the metric of the answers of the task that states were taken from.
        ceiling: the same of its own prompts: as much as there is to transfer.
        floor: of the other task's prompts, with nothing put in.
        metric: its name.
        provenance: model, tasks, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    @property
    def transferred(self) -> Float[Tensor, "arm layer"]:
        """The share of the way from floor to ceiling; NaN if these are the same."""
        way = self.ceiling.mean() - self.floor.mean()
        found: Tensor = (self.scores.mean(dim=-1) - self.floor.mean()) / way
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
