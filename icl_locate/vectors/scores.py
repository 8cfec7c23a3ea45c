"""Scores of prompts into which vectors are put, beside controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_counts, check_items, check_number
from icl_locate.checks.contents import check_names, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.studies.beside import Beside
from icl_locate.studies.intervals import Spread

if TYPE_CHECKING:
    import pandas as pd


class Injections(Beside, axes={}, beside=("ceiling", "floor"), form="", tensors=(), labels=()):
    """Scores of prompts into which a vector is put, beside controls; a base of frozen dataclasses.

    Attributes:
        arms: what was put in: "vector", and the controls by name.
        ceiling: the score of prompts with examples, which nothing is put into.
        floor: of the prompts that the vectors are put into, without one.
    """

    arms: tuple[str, ...]
    ceiling: Tensor
    floor: Tensor

    def _check(self) -> None:
        settle(self, arms=check_names("arms", self.arms, distinct=True))
        super()._check()

    @checked(ResultError)
    def gain_interval(self, confidence: float = 0.95) -> Float[Tensor, "bound arm place"]:
        """Of what each arm adds to the floor, the mean over seeds; row 0 low, row 1 high.

        Student's, of the difference on the same items and seeds; NaN for a single item.

        Raises:
            ResultError: if the confidence is out of range, or the metric is not known here.
        """
        return torch.from_numpy(self.against("floor").interval(confidence))

    @checked(ResultError)
    def beyond(self, control: str) -> Spread:
        """How much more the vector does than a control, at each place: its mean and intervals.

        Raises:
            ResultError: if there is no such control, or the metric is not known here.
        """
        check_choice("control", control, self.arms[1:], error=ResultError)
        spread = self.spread()
        return spread[0] - spread[self.arms.index(control)]

    @checked(ResultError)
    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row an arm at a place: their labels, score, low, high, gain, gain_low, gain_high."""
        frame = super().to_dataframe()
        frame = frame[frame["seed"] == self.seeds[0]].drop(columns=["seed", "score"])
        low, high = self.score_interval(confidence)
        gains = self.against("floor")
        gain_low, gain_high = gains.interval(confidence)
        columns = {
            "score": self.scores.mean(dim=-1).numpy(),
            "low": low.numpy(),
            "high": high.numpy(),
            "gain": gains.mean,
            "gain_low": gain_low,
            "gain_high": gain_high,
        }
        for name, values in columns.items():
            frame[name] = values.ravel()
        return frame.reset_index(drop=True)


@short_repr("model", "task", "metric", "arms", "layers", "seeds", "scores", "floor", "ceiling")
@dataclass(frozen=True)
class LayerScores(
    Injections,
    axes={"arm": "arms", "layer": "layers", "seed": "seeds"},
    form="icl_locate.LayerScores/1",
    tensors=("statistics", "scores", "ceiling", "floor"),
    labels=("arms", "layers", "seeds", "metric", "provenance"),
):
    """The scores of prompts into which a vector is put after one layer.

    Attributes:
        arms: "vector", and the controls by name.
        layers: after which it is put in.
        seeds: each drew other examples, and another random vector.
        statistics: each item's sufficient statistics; cell ``arm * n_layers + layer``, and behind
            them the ceiling and the floor.
        scores: the metric over all items.
        ceiling: of prompts with examples, which nothing is put into.
        floor: of the prompts that vectors are put into, without one.
        metric: its name.
        provenance: model, task, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    arms: tuple[str, ...]
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    scores: Float[Tensor, "arm layer seed"]
    ceiling: Float[Tensor, "seed"]
    floor: Float[Tensor, "seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        layers = check_counts("layers", self.layers, least=0, ascending=True, error=ResultError)
        settle(self, layers=layers)
        self._check()

    @checked(ResultError)
    def curve(self, arm: str = "vector") -> "LayerCurve":
        """One arm over the layers, as `locate_peak` takes it.

        Raises:
            ResultError: if there is no such arm.
        """
        place = self.arms.index(check_choice("arm", arm, self.arms, error=ResultError))
        n_layers = len(self.layers)
        rows = [*range(place * n_layers, (place + 1) * n_layers), -1]
        return LayerCurve(
            layers=self.layers,
            seeds=self.seeds,
            statistics=self.statistics[rows],
            scores=self.scores[place],
            floor=self.floor,
            metric=self.metric,
            provenance={**self.provenance, "arm": arm},
            custom_metric=self.custom_metric,
        )


@short_repr("model", "task", "metric", "layers", "seeds", "scores", "floor")
@dataclass(frozen=True)
class LayerCurve(
    Beside,
    axes={"layer": "layers", "seed": "seeds"},
    beside=("floor",),
    form="icl_locate.LayerCurve/1",
    tensors=("statistics", "scores", "floor"),
    labels=("layers", "seeds", "metric", "provenance"),
):
    """The scores of prompts into which one vector is put after one layer.

    Attributes:
        statistics: each item's sufficient statistics; a cell a layer, and behind them the floor.
        layers, seeds, scores, floor, metric, provenance, custom_metric: as in `LayerScores`.
    """

    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    scores: Float[Tensor, "layer seed"]
    floor: Float[Tensor, "seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    @property
    def baseline(self) -> Spread:
        """How the floor scatters over items and seeds."""
        return self.spread_of("floor")


@short_repr("model", "task", "metric", "arms", "strengths", "seeds", "scores", "floor", "ceiling")
@dataclass(frozen=True)
class StrengthScores(
    Injections,
    axes={"arm": "arms", "strength": "strengths", "seed": "seeds"},
    form="icl_locate.StrengthScores/1",
    tensors=("statistics", "scores", "ceiling", "floor"),
    labels=("arms", "strengths", "seeds", "metric", "provenance"),
):
    """The scores of prompts whose states vectors steer at every layer.

    Attributes:
        strengths: by which they are steered.
        statistics: each item's sufficient statistics; cell ``arm * n_strengths + strength``, and
            behind them the ceiling and the floor.
        arms, seeds, scores, ceiling, floor, metric, provenance, custom_metric: as in `LayerScores`.
    """

    arms: tuple[str, ...]
    strengths: tuple[float, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    scores: Float[Tensor, "arm strength seed"]
    ceiling: Float[Tensor, "seed"]
    floor: Float[Tensor, "seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        listed = check_items("strengths", self.strengths, "a list of numbers", error=ResultError)
        numbers = [check_number("strengths", one, error=ResultError) for one in listed]
        settle(self, strengths=tuple(numbers))
        self._check()
