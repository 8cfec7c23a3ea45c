"""What task vectors did: scores by layer, controls beside them, and the chosen layer's score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import (
    check_choice,
    check_count,
    check_counts,
    check_items,
    check_seed,
)
from icl_locate.checks.contents import check_names, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.interventions.states import StateEdit
from icl_locate.metrics import Metric, check_statistics
from icl_locate.studies.beside import Beside
from icl_locate.studies.intervals import Spread
from icl_locate.vectors.scores import LayerCurve

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

VECTOR, ZERO_SHOT, FEW_SHOT = "task vector", "zero-shot", "few-shot"
CONTROLS = ("random", "shuffled", "other task")


@short_repr("model", "task", "metric", "layers", "seeds", "controls", "best_layer", "scores")
@dataclass(frozen=True)
class TaskVectors(
    Beside,
    axes={"layer": "layers", "seed": "seeds"},
    beside=("zero_shot", "few_shot"),
    form="icl_locate.TaskVectors/1",
    tensors=(
        "statistics", "scores", "zero_shot", "few_shot", "vectors",
        "control_statistics", "control_scores", "test_statistics", "test",
    ),
    labels=("layers", "seeds", "controls", "metric", "provenance"),
    later=("pair_statistics", "pair_scores"),
):  # fmt: skip
    """The vectors of a task, and what prompts without context score with them.

    The layer is chosen on the dev queries, and its score reported on the test queries.

    Attributes:
        layers: at which vectors were put in: after these blocks, where they were taken, too.
        seeds: each drew other demonstrations and dummy queries.
        controls: of "random" (directions as long as the vectors), "shuffled" (vectors of
            demonstrations whose labels were dealt out anew) and "other task".
        statistics: each dev query's sufficient statistics of the metric: with the vector at each
            layer, then without one, then with demonstrations in the prompt.
        scores: the metric over the dev queries, with the vector at each layer.
        zero_shot, few_shot: the same without a vector, and with demonstrations in the prompt.
        vectors: the state after every block of the model at the last token, mean over the dummy
            queries; all layers, whichever were tried.
        control_statistics, control_scores: of the controls, on the dev queries.
        test_statistics, test: of the test queries at ``best_layer``: of the rows of ``arms``.
        metric: the metric's name; its signature stands in ``provenance``.
        provenance: model, task, prompts' hash, versions, options, demonstrations and dummies.
        custom_metric: the metric itself if it is none of the package's; not saved.
        pair_statistics, pair_scores: taken after one block, put in after another, on the dev
            queries; ``None`` unless asked for.
    """

    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    controls: tuple[str, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    scores: Float[Tensor, "layer seed"]
    zero_shot: Float[Tensor, "seed"]
    few_shot: Float[Tensor, "seed"]
    vectors: Float[Tensor, "seed every_layer d_model"]
    control_statistics: Float[Tensor, "control layer seed item stat"]
    control_scores: Float[Tensor, "control layer seed"]
    test_statistics: Float[Tensor, "arm seed test_item stat"]
    test: Float[Tensor, "arm seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None
    pair_statistics: Float[Tensor, "from_layer to_layer seed item stat"] | None = None
    pair_scores: Float[Tensor, "from_layer to_layer seed"] | None = None

    def __post_init__(self) -> None:
        layers = check_counts("layers", self.layers, least=0, ascending=True, error=ResultError)
        settle(self, layers=layers, controls=_names(self.controls))
        self._check()
        n_layers, n_seeds, n_controls = len(layers), len(self.seeds), len(self.controls)
        check_table("vectors", self.vectors, (n_seeds, None, None))
        if not 0 <= layers[-1] < self.vectors.shape[1]:
            raise ResultError(
                f"layers are {list(layers)}, but vectors has {self.vectors.shape[1]} of them"
            )
        self._check_more("control_statistics", "control_scores", (n_controls, n_layers, n_seeds))
        self._check_more("test_statistics", "test", (n_controls + 3, n_seeds))
        if self.pair_statistics is not None:
            self._check_more("pair_statistics", "pair_scores", (n_layers, n_layers, n_seeds))

    def _check_more(self, statistics: str, scores: str, shape: tuple[int, ...]) -> None:
        """The tables beside those that every result has."""
        check_table(scores, getattr(self, scores), shape)
        table = getattr(self, statistics)
        check_table(statistics, table, (*shape, None, None))
        check_statistics(table.numpy(), self.metric, self.custom_metric, self.provenance)

    def _rescored(self, statistics: Tensor, metric: Metric) -> dict[str, Any]:  # noqa: ARG002
        raise ResultError(
            "test queries were run at the layer that calibrated scores chose: run it again with "
            "metric='label_accuracy'; curve().uncalibrated() gives the scores over the layers"
        )

    @property
    def arms(self) -> tuple[str, ...]:
        """What the rows of ``test`` are: the vector, the controls, without one, with context."""
        return (VECTOR, *self.controls, ZERO_SHOT, FEW_SHOT)

    @property
    def best_layer(self) -> int:
        """The layer of the highest mean score on the dev queries, the lowest of equals."""
        return self.layers[int(self.scores.mean(dim=-1).argmax())]

    @property
    def test_scores(self) -> Float[Tensor, "seed"]:
        """The vector's scores on the test queries, at the best layer."""
        return self.test[0]

    @property
    def baseline(self) -> Spread:
        """How the score without a vector scatters over the dev queries; for `locate_peak`."""
        return self.spread_of("zero_shot")

    @checked(ResultError)
    def curve(self, arm: str = VECTOR) -> LayerCurve:
        """The vector's scores or a control's over the layers; `locate_peak` takes it.

        Raises:
            ResultError: if there was no such control.
        """
        check_choice("arm", arm, self.arms[:-2], error=ResultError)
        table, scores = self.statistics[: len(self.layers)], self.scores
        if arm != VECTOR:
            place = self.controls.index(arm)
            table, scores = self.control_statistics[place], self.control_scores[place]
        return LayerCurve(
            layers=self.layers,
            seeds=self.seeds,
            statistics=torch.cat([table, self.statistics[-2:-1]]),
            scores=scores,
            floor=self.zero_shot,
            metric=self.metric,
            provenance={**self.provenance, "arm": arm},
            custom_metric=self.custom_metric,
        )

    @checked(ResultError)
    def beyond(self, control: str) -> Spread:
        """How far the vector's score lies above a control's at each layer, on the same queries.

        Raises:
            ResultError: if there was no such control, or the metric is not known here.
        """
        check_choice("control", control, self.controls, error=ResultError)
        of_control = self.control_statistics[self.controls.index(control)]
        return self.spread() - Spread.of(self.scorer(), of_control.numpy())

    @checked(ResultError)
    def test_table(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row an arm, on the test queries: arm, score, low, high, gain, gain_low, gain_high.

        The gain is on the score without a vector; intervals are Student's, gains' of differences
        on the same queries and seeds; NaN for a single query.

        Raises:
            ResultError: if the confidence is out of range, or the metric is not known here.
        """
        import pandas as pd

        spread = Spread.of(self.scorer(), self.test_statistics.numpy())
        every = np.eye(len(self.arms))
        gain = spread.combine(every - every[self.arms.index(ZERO_SHOT)])
        columns: dict[str, Any] = {"arm": self.arms, "score": spread.mean}
        columns["low"], columns["high"] = spread.interval(confidence)
        columns["gain"] = gain.mean
        columns["gain_low"], columns["gain_high"] = gain.interval(confidence)
        return pd.DataFrame(columns)

    @checked(ResultError)
    def edit(
        self, layer: int | None = None, seed: int | None = None, *, generated: bool = False
    ) -> StateEdit:
        """The intervention that puts the vector into prompts, at their last token.

        It is refused on a model of other weights.

        Args:
            layer: after which block; ``None``: ``best_layer``.
            seed: whose vector; ``None``: the mean of all seeds' vectors.
            generated: whether it replaces the states of generated tokens, too; Hendel et al. put it
                into the prompt alone.

        Raises:
            ResultError: if the model has no such layer, or there was no such seed.
        """
        most = self.vectors.shape[1] - 1
        at = self.best_layer if layer is None else layer
        at = check_count("layer", at, least=0, most=most, error=ResultError)
        vector = self.vectors[:, at].mean(dim=0)
        if seed is not None:
            known = check_seed("seed", seed, error=ResultError)
            if known not in self.seeds:
                seeds = ", ".join(map(str, self.seeds))
                raise ResultError(f"seed is {known}: expected one of {seeds}")
            vector = self.vectors[self.seeds.index(known), at]
        return StateEdit(
            "replace", vector, layer=at, at="last", generated=generated, origin=self.provenance
        )

    def to_xarray(self) -> "xr.Dataset":
        """Scores, controls, baselines, pairs and test scores as a labelled dataset."""
        layers, seeds = list(self.layers), list(self.seeds)
        found = super().to_xarray()
        tables: dict[str, tuple[tuple[str, ...], Tensor]] = {
            "zero_shot": (("seed",), self.zero_shot),
            "few_shot": (("seed",), self.few_shot),
            "control_score": (("control", "layer", "seed"), self.control_scores),
            "test_score": (("arm", "seed"), self.test),
        }
        coords = {"control": list(self.controls), "arm": list(self.arms), "layer": layers}
        if self.pair_scores is not None:
            tables["pair_score"] = ("from_layer", "to_layer", "seed"), self.pair_scores
            coords |= {"from_layer": layers, "to_layer": layers}
        tables_of = {name: (axes, table.numpy()) for name, (axes, table) in tables.items()}
        return found.assign(tables_of).assign_coords(coords | {"seed": seeds})

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a cell of the dev queries: arm, layer, seed, score."""
        import pandas as pd

        tables = dict(
            zip((VECTOR, *self.controls), (self.scores, *self.control_scores), strict=True)
        )
        return pd.DataFrame(
            [
                {"arm": arm, "layer": layer, "seed": seed, "score": float(table[i, j])}
                for arm, table in tables.items()
                for i, layer in enumerate(self.layers)
                for j, seed in enumerate(self.seeds)
            ]
        )


def _names(controls: Any) -> tuple[str, ...]:
    """Controls' names; there may be none."""
    given = check_items("controls", controls, "a list of controls", error=ResultError)
    found = check_names("controls", given, distinct=True) if given else ()
    for name in found:
        check_choice("controls", name, CONTROLS, error=ResultError)
    return found
