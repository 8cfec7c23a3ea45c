"""Which of two tasks' answers a model gave: that of its demonstrations, or that of a vector."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_counts
from icl_locate.checks.contents import settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.studies.beside import Beside
from icl_locate.studies.intervals import Spread

if TYPE_CHECKING:
    import pandas as pd

ANSWERS = ("task", "other")


@short_repr("model", "task", "metric", "answers", "layers", "seeds", "alone", "scores")
@dataclass(frozen=True)
class Override(
    Beside,
    axes={"answer": "answers", "layer": "layers", "seed": "seeds"},
    beside=("task_alone", "other_alone"),
    form="icl_locate.Override/1",
    tensors=("statistics", "scores", "task_alone", "other_alone"),
    labels=("layers", "seeds", "metric", "provenance"),
):
    """What a model answers with one task's demonstrations in its prompt and another's vector.

    Attributes:
        layers: after which blocks the vector was put in, and taken.
        seeds: each drew other demonstrations of both tasks.
        statistics: each query's sufficient statistics, of the task's own answer and of the other's.
        scores: the metric of the task's own answer ("task") and of the other's ("other").
        task_alone, other_alone: the same without a vector.
        metric: the metric's name.
        provenance: model, tasks, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    scores: Float[Tensor, "answer layer seed"]
    task_alone: Float[Tensor, "seed"]
    other_alone: Float[Tensor, "seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        layers = check_counts("layers", self.layers, least=0, ascending=True, error=ResultError)
        settle(self, layers=layers)
        self._check()

    @property
    def answers(self) -> tuple[str, ...]:
        """Whose answers are scored."""
        return ANSWERS

    @property
    def advantage(self) -> Spread:
        """How far the other task's answer lies above the task's own at each layer."""
        spread = self.spread()
        return spread[1] - spread[0]

    @checked(ResultError)
    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row a layer: layer, task, other, advantage, low, high, wins.

        The advantage of the other's answer has Student's interval, of differences on the same
        queries and seeds; ``wins`` names whose answer scores higher beyond noise, or is empty.

        Raises:
            ResultError: if the confidence is out of range, or the metric is not known here.
        """
        import pandas as pd

        advantage = self.advantage
        low, high = advantage.interval(confidence)
        wins = np.where(low > 0, "other", np.where(high < 0, "task", ""))
        task, other = self.scores.mean(dim=-1).numpy()
        columns = {"layer": self.layers, "task": task, "other": other, "advantage": advantage.mean}
        return pd.DataFrame(columns | {"low": low, "high": high, "wins": wins})
