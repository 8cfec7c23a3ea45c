"""What a sweep found: scores over condition, layer and seed, and what it takes to judge them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_counts, check_seeds, check_text
from icl_locate.checks.contents import (
    check_names,
    check_recipe,
    check_table,
    check_texts,
    settle,
)
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric, check_statistics, find_scorer
from icl_locate.records.saved import Saved

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@short_repr("model", "task", "metric", "conditions", "seeds", "scores")
@dataclass(frozen=True)
class SweepResult(
    Saved,
    form="icl_locate.SweepResult/2",
    tensors=("statistics", "item_scores", "scores"),
    labels=("conditions", "layers", "seeds", "sources", "targets", "metric", "texts", "provenance"),
):
    """The scores of a sweep, its texts, and its recipe.

    Layer ``l`` hides the context from layer ``l`` on; the last, ``n_layers``, hides nothing.

    Attributes:
        conditions, layers, seeds: the axes' labels.
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
            metric=check_text("metric", self.metric, error=ResultError),
            provenance=check_recipe(self.provenance),
        )
        cells = len(self.conditions), len(self.layers), len(self.seeds)
        items = (*cells, len(self.targets))
        if len(self.sources) != len(self.targets):
            raise ResultError(
                f"there are {len(self.sources)} sources: expected {len(self.targets)}, as targets"
            )
        check_table("scores", self.scores, cells)
        check_table("item_scores", self.item_scores, items)
        check_table("statistics", self.statistics, (*items, None))
        if self.texts != []:
            check_texts("texts", self.texts, items)
        check_statistics(self.statistics.numpy(), self.metric, self.custom_metric, self.provenance)

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

    def scorer(self) -> Metric:
        """The metric that turns summed statistics into scores.

        Raises:
            ResultError: for a custom metric after loading: what it computes is not in the file.
        """
        return find_scorer(self.metric, self.custom_metric, self.provenance)

    def to_xarray(self) -> "xr.Dataset":
        """Scores, ceilings and floors as a labelled dataset over condition, layer and seed."""
        import xarray as xr

        coordinates = {
            "condition": list(self.conditions),
            "layer": list(self.layers),
            "seed": list(self.seeds),
        }
        axes = ("condition", "layer", "seed")
        return xr.Dataset(
            {
                "score": (axes, self.scores.numpy()),
                "item_score": ((*axes, "item"), self.item_scores.numpy()),
                "ceiling": (("condition", "seed"), self.ceiling.numpy()),
                "floor": (("condition", "seed"), self.floor.numpy()),
            },
            coords=coordinates,
            attrs={"metric": self.metric, "signature": str(self.provenance.get("signature", ""))},
        )

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a cell: condition, layer, seed, score."""
        frame = self.to_xarray()["score"].to_dataframe().reset_index()
        return frame[["condition", "layer", "seed", "score"]]
