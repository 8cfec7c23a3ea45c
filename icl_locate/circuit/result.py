"""What measures of the circuit found: a number for each layer, or for each head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_counts, check_seeds
from icl_locate.checks.contents import check_names, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked, one_of
from icl_locate.errors import ResultError
from icl_locate.interventions.heads import HeadSet
from icl_locate.metrics import Metric
from icl_locate.studies.intervals import Spread
from icl_locate.studies.result import Measured

if TYPE_CHECKING:
    import pandas as pd


class Arms(Measured, axes={}, form="", tensors=(), labels=()):
    """A measure beside its controls, on the same prompts; a base of frozen dataclasses."""

    arms: tuple[str, ...]
    chance: Any

    @checked(ResultError)
    def beyond(self, control: str, arm: str | None = None) -> Spread:
        """How far an arm lies above another in each cell, on the same prompts.

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
        """One row a cell of an arm, the mean over seeds: its labels, score, low, high, chance.

        Raises:
            ResultError: if the confidence is out of range.
        """
        frame: pd.DataFrame = super().to_dataframe()
        names = [name for name in self.axes if name != "seed"]
        frame = frame[frame["seed"] == self.axes["seed"][0]][names]
        low, high = self.score_interval(confidence)
        score = self.scores.mean(dim=-1)
        chance = self.chance.reshape(*self.chance.shape, *[1] * (score.ndim - self.chance.ndim))
        columns = {"score": score, "low": low, "high": high, "chance": chance.expand_as(score)}
        for name, values in columns.items():
            frame[name] = values.flatten().numpy()
        rows: pd.DataFrame = frame.reset_index(drop=True)
        return rows

    def _arm(self, name: str, arm: str) -> int:
        return self.arms.index(check_choice(name, arm, self.arms, error=ResultError))


@short_repr("metric", "model", "task", "arms", "layers", "seeds", "scores", "chance")
@dataclass(frozen=True)
class LayerMeasure(
    Arms,
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
        custom_metric: none: its name and a mean say all.
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


def layer_measure(
    arms: Mapping[str, Float[Tensor, "layer seed item"]],
    *,
    seeds: tuple[int, ...],
    chance: float | Sequence[float],
    metric: str,
    provenance: Mapping[str, Any],
) -> LayerMeasure:
    """The measure of numbers for each item, by arm; their mean is the score.

    Args:
        chance: at every layer, of each arm or of all.
    """
    values = torch.stack([table.double() for table in arms.values()])
    each = [chance] * len(arms) if isinstance(chance, float) else list(chance)
    return LayerMeasure(
        arms=tuple(arms),
        layers=tuple(range(values.shape[1])),
        seeds=seeds,
        statistics=torch.stack([values, torch.ones_like(values)], dim=-1),
        scores=values.mean(dim=-1),
        chance=values.new_tensor(each)[:, None].repeat(1, values.shape[1]),
        metric=metric,
        provenance=provenance,
    )


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
    Arms,
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
        custom_metric: none: its name and a mean say all.
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
        check_table("chance", self.chance, (len(self.arms),))

    @checked(ResultError, of=one_of("sum", "max"))
    def per_layer(self, of: str = "sum") -> LayerMeasure:
        """The same of each layer: of its heads together, prompt by prompt.

        Args:
            of: "sum" gives the number of heads that count in a layer, where an arm says whether
                one does; "max" the greatest number of any of its heads, which is the more, the
                more heads there are: only a control of the same kind says what it is worth.
        """
        values = self._known_statistics()
        together = values[..., 0].sum(dim=2) if of == "sum" else values[..., 0].amax(dim=2)
        table = torch.stack([together, torch.ones_like(together)], dim=-1)
        chance = self.chance * len(self.heads) if of == "sum" else self.chance * torch.nan
        return LayerMeasure(
            arms=self.arms,
            layers=self.layers,
            seeds=self.seeds,
            statistics=table,
            scores=together.mean(dim=-1),
            chance=chance[:, None].repeat(1, len(self.layers)),
            metric=self.metric,
            provenance={**self.provenance, "per_layer": of},
            custom_metric=self.custom_metric,
        )

    @checked(ResultError)
    def heads_beyond(
        self, control: str, arm: str | None = None, confidence: float = 0.95
    ) -> HeadSet:
        """The heads of which an arm lies above a control beyond doubt, the furthest first.

        Beyond doubt for all heads together: each is held against an interval that leaves it its
        share of the doubt (Bonferroni).

        Args:
            arm: ``None`` means the first.

        Raises:
            ResultError: if there is no such arm, or the confidence is out of range.
        """
        spread = self.beyond(control, arm)
        low, _ = spread.interval(1 - (1 - confidence) / spread.mean.size)
        order = (-spread.mean).argsort(axis=None, kind="stable").tolist()
        places = [divmod(cell, len(self.heads)) for cell in order if low.flat[cell] > 0]
        sure = tuple((self.layers[layer], self.heads[head]) for layer, head in places)
        return HeadSet(sure, self.layers[-1] + 1, self.heads[-1] + 1)
