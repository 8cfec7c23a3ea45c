"""What measures of the circuit found: a number for each layer, or for each head."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_counts, check_seeds
from icl_locate.checks.contents import check_names, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.studies.intervals import Spread
from icl_locate.studies.result import Measured

if TYPE_CHECKING:
    import pandas as pd


@short_repr("metric", "model", "task", "arms", "layers", "seeds", "scores", "chance")
@dataclass(frozen=True)
class LayerMeasure(
    Measured,
    axes={"arm": "arms", "layer": "layers", "seed": "seeds"},
    form="icl_locate.LayerMeasure/1",
    tensors=("statistics", "scores", "chance"),
    labels=("arms", "layers", "seeds", "metric", "provenance"),
):
    """A measure of the circuit at each layer, beside its controls.

    Attributes:
        arms: what was measured, the measure itself first, and controls behind it.
        layers: of the model; where states are measured, 0 is what enters its first block, and
            ``l`` what leaves block ``l - 1``; where attention is, the block itself.
        seeds: each drew other examples.
        statistics: each prompt's number, and 1 to count it.
        scores: the mean over prompts.
        chance: of each arm at each layer, what would come of features or attention that say
            nothing; NaN where that is not known without a control.
        metric: the measure's name.
        provenance: model, task, prompts' hash, versions, options.
        custom_metric: none of the package's; not saved.
    """

    arms: tuple[str, ...]
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "arm layer seed item stat"]
    scores: Float[Tensor, "arm layer seed"]
    chance: Float[Tensor, "arm layer"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            arms=check_names("arms", self.arms, distinct=True),
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
        )
        self._check()
        shape = len(self.arms), len(self.layers)
        check_table("chance", self.chance, shape, finite=False)

    @checked(ResultError)
    def curve(self, arm: str | None = None) -> "ArmCurve":
        """One arm over the layers, as `icl_locate.vectors.locate_peak` takes it.

        Args:
            arm: ``None`` means the first, the measure itself.

        Raises:
            ResultError: if there is no such arm.
        """
        place = self._arm("arm", self.arms[0] if arm is None else arm)
        return ArmCurve(
            layers=self.layers,
            seeds=self.seeds,
            statistics=self.statistics[place],
            scores=self.scores[place],
            metric=self.metric,
            provenance={**self.provenance, "arm": self.arms[place]},
            custom_metric=self.custom_metric,
        )

    @checked(ResultError)
    def beyond(self, control: str, arm: str | None = None) -> Spread:
        """How far an arm lies above another at each layer, on the same prompts.

        Args:
            arm: ``None`` means the first.

        Raises:
            ResultError: if there is no such arm.
        """
        first = self._arm("arm", self.arms[0] if arm is None else arm)
        spread = self.spread()
        return spread[first] - spread[self._arm("control", control)]

    @checked(ResultError)
    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row an arm at a layer: arm, layer, score, low, high, chance.

        Raises:
            ResultError: if the confidence is out of range.
        """
        frame = super().to_dataframe()
        frame = frame[frame["seed"] == self.seeds[0]].drop(columns=["seed", "score"])
        low, high = self.score_interval(confidence)
        columns = {
            "score": self.scores.mean(dim=-1), "low": low, "high": high, "chance": self.chance
        }  # fmt: skip
        for name, values in columns.items():
            frame[name] = values.flatten().numpy()
        return frame.reset_index(drop=True)

    def _arm(self, name: str, arm: str) -> int:
        return self.arms.index(check_choice(name, arm, self.arms, error=ResultError))


@short_repr("metric", "model", "task", "layers", "seeds", "scores")
@dataclass(frozen=True)
class ArmCurve(
    Measured,
    axes={"layer": "layers", "seed": "seeds"},
    form="icl_locate.ArmCurve/1",
    tensors=("statistics", "scores"),
    labels=("layers", "seeds", "metric", "provenance"),
):
    """One arm of a `LayerMeasure`; its attributes are the same."""

    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "layer seed item stat"]
    scores: Float[Tensor, "layer seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
        )
        self._check()


@short_repr("metric", "model", "task", "arms", "seeds", "scores", "chance")
@dataclass(frozen=True)
class HeadMeasure(
    Measured,
    axes={"arm": "arms", "layer": "layers", "head": "heads", "seed": "seeds"},
    form="icl_locate.HeadMeasure/1",
    tensors=("statistics", "scores", "chance"),
    labels=("arms", "layers", "heads", "seeds", "metric", "provenance"),
):
    """A measure of each head, beside its controls.

    Attributes:
        arms: what was measured, the measure itself first, and controls behind it.
        layers, heads: of the model.
        seeds: each drew other examples.
        statistics: each prompt's number, and 1 to count it.
        scores: the mean over prompts; of a count, the share of prompts.
        chance: of each arm, what would come of attention spread evenly over the prompt.
        metric: the measure's name.
        provenance: model, task, prompts' hash, versions, options.
        custom_metric: none of the package's; not saved.
    """

    arms: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "arm layer head seed item stat"]
    scores: Float[Tensor, "arm layer head seed"]
    chance: Float[Tensor, "arm"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            arms=check_names("arms", self.arms, distinct=True),
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
            heads=check_counts("heads", self.heads, least=0, ascending=True, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
        )
        self._check()
        check_table("chance", self.chance, (len(self.arms),), finite=False)
