"""What a sweep found: scores over condition, layer and seed, and what it takes to judge them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_counts, check_seeds
from icl_locate.checks.contents import check_names, check_table, check_texts, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric, score_totals
from icl_locate.studies.result import Measured, rescored

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@short_repr("model", "task", "metric", "conditions", "seeds", "scores")
@dataclass(frozen=True)
class SweepResult(
    Measured,
    axes={"condition": "conditions", "layer": "layers", "seed": "seeds"},
    form="icl_locate.SweepResult/2",
    former="icl_locate.SweepResult/1",
    tensors=("statistics", "item_scores", "scores"),
    labels=("conditions", "layers", "seeds", "sources", "targets", "metric", "texts", "provenance"),
):
    """The scores of a sweep, its texts, and its recipe.

    Layer ``l`` hides the context from layer ``l`` on; the last, ``n_layers``, hides nothing.

    Attributes:
        conditions, layers, seeds: the axes' labels; layers are the start layers that ran.
        statistics: each item's sufficient statistics of the metric; they add up over items.
        item_scores: the metric of each item on its own.
        scores: the metric over all items.
        texts: the answers, ``texts[condition][layer][seed][item]``; empty where the metric is a
            log-probability.
        sources, targets: the queries and their wanted answers.
        metric: the metric's name; its signature stands in ``provenance``.
        provenance: model, tokenizer, task, template, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    conditions: tuple[str, ...]
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "condition layer seed item stat"]
    item_scores: Float[Tensor, "condition layer seed item"]
    scores: Float[Tensor, "condition layer seed"]
    texts: Sequence[Sequence[Sequence[Sequence[str]]]]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            conditions=check_names("conditions", self.conditions, distinct=True),
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
            sources=check_names("sources", self.sources),
            targets=check_names("targets", self.targets),
        )
        if len(self.sources) != len(self.targets):
            raise ResultError(
                f"there are {len(self.sources)} sources: expected {len(self.targets)}, as targets"
            )
        self._check()
        items = (*self._shape(), len(self.targets))
        check_table("item_scores", self.item_scores, items)
        check_table("statistics", self.statistics, (*items, None))
        if self.texts != []:
            check_texts("texts", self.texts, items)

    @property
    def n_layers(self) -> int:
        """The model's number of layers; as a start layer it hides nothing."""
        return self.layers[-1]

    @property
    def ceiling(self) -> Float[Tensor, "condition seed"]:
        """The score of each condition's own prompt with nothing hidden."""
        return self.scores[:, -1]

    @property
    def floor(self) -> Float[Tensor, "condition seed"]:
        """The score with the context hidden at every layer."""
        return self.scores[:, 0]

    def to_xarray(self) -> "xr.Dataset":
        """Scores, ceilings and floors over condition, layer and seed; items with their answers.

        ``item_score`` and ``answer`` have the axis "item" too, whose coordinates are the queries'
        sources and targets. Beside calibrated scores stand those without, ``uncalibrated``.
        """
        axes = ("condition", "layer", "seed", "item")
        found = super().to_xarray()
        found["item_score"] = axes, self.item_scores.numpy()
        found["answer"] = axes, self._answers()
        found["ceiling"] = ("condition", "seed"), self.ceiling.numpy()
        found["floor"] = ("condition", "seed"), self.floor.numpy()
        if self.is_calibrated:
            found["uncalibrated"] = axes[:-1], self.uncalibrated().scores.numpy()
        return found.assign_coords(
            source=("item", list(self.sources)), target=("item", list(self.targets))
        )

    @checked(ResultError)
    def to_dataframe(self, rows: Literal["answer", "cell"] = "answer") -> "pd.DataFrame":
        """A table of the answers, or of the scores alone.

        Args:
            rows: "answer": one row an answer: condition, layer, seed, item, source, target, answer
                (empty where the metric is a log-probability), item_score, and the score of its
                cell. "cell": one row a cell: condition, layer, seed, score, and where that is
                calibrated, uncalibrated.
        """
        if rows == "cell":
            frame = super().to_dataframe()
            if self.is_calibrated:
                frame["uncalibrated"] = self.uncalibrated().scores.flatten().numpy()
            return frame
        columns = ["source", "target", "answer", "item_score", "score"]
        frame = self.to_xarray()[["item_score", "answer", "score"]].to_dataframe().reset_index()
        return frame[["condition", "layer", "seed", "item", *columns]]

    def _scored(self, statistics: Any) -> list[tuple[Any, Any]]:
        return [*super()._scored(statistics), (statistics, self.item_scores.numpy())]

    def _rescored(self, statistics: Tensor, metric: Metric) -> dict[str, Any]:
        items = torch.from_numpy(score_totals(metric, statistics.numpy()))
        return {**rescored(statistics, metric), "item_scores": items, "texts": []}

    def _answers(self) -> Any:
        """The texts as an array; empty where nothing was generated."""
        shape = (*self._shape(), len(self.targets))
        if not self.texts:
            return np.full(shape, "", dtype=object)
        return np.array(self.texts, dtype=object).reshape(shape)
