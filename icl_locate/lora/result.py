"""What adapters of single layers learnt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from icl_locate.checks.arguments import check_counts, check_number, check_seeds, check_text
from icl_locate.checks.contents import check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric, check_statistics, find_scorer
from icl_locate.records.saved import Saved
from icl_locate.studies.intervals import bootstrap_scores, percentile_interval
from icl_locate.studies.sweep_result import SweepResult


@short_repr("model", "task", "metric", "layers", "seeds", "untuned", "scores")
@dataclass(frozen=True)
class LoraResult(
    Saved,
    form="icl_locate.LoraResult/2",
    tensors=("statistics", "scores", "dev_losses", "n_epochs"),
    labels=("layers", "seeds", "metric", "untuned", "provenance"),
):
    """The scores of models tuned at one layer each.

    Attributes:
        layers, seeds: the axes' labels.
        statistics: each item's sufficient statistics of the metric.
        scores: the metric over all items, with no instruction and no examples in the prompt.
        dev_losses: the loss of the best epoch.
        n_epochs: that were trained.
        untuned: the metric without any adapter.
        metric: its name.
        provenance: model, task, configuration, projections' names, versions.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "layer seed item stat"]
    scores: Float[Tensor, "layer seed"]
    dev_losses: Float[Tensor, "layer seed"]
    n_epochs: Int[Tensor, "layer seed"]
    untuned: float
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
            metric=check_text("metric", self.metric, error=ResultError),
            untuned=check_number("untuned", self.untuned, error=ResultError),
            provenance=check_recipe(self.provenance),
        )
        cells = len(self.layers), len(self.seeds)
        check_table("scores", self.scores, cells)
        check_table("dev_losses", self.dev_losses, cells)
        check_table("n_epochs", self.n_epochs, cells, whole=True)
        check_table("statistics", self.statistics, (*cells, None, None))
        check_statistics(self.statistics.numpy(), self.metric, self.custom_metric, self.provenance)

    @checked(ResultError)
    def interval(
        self, confidence: float = 0.95, *, n_resamples: int = 1000, seed: int = 0
    ) -> Float[Tensor, "bound layer"]:
        """Of the mean score of each layer, by paired bootstrap over items and seeds.

        Raises:
            ResultError: if the confidence is out of range, or the metric is not known here.
        """
        samples = self._samples(n_resamples, seed)
        return torch.from_numpy(percentile_interval(samples, confidence, self._n_items))

    @checked(ResultError)
    def rank_correlation(
        self,
        result: SweepResult,
        condition: str | None = None,
        *,
        confidence: float = 0.95,
        n_resamples: int = 1000,
        seed: int = 0,
    ) -> tuple[float, float, float]:
        """Spearman's rank correlation with a masking curve over the layers: (rho, low, high).

        Layer ``l`` tuned against the context hidden from ``l`` on. Layers before the task is
        recognised are expected to train well where masking still hurts: a negative correlation. The
        interval resamples the items and seeds of both; NaN if a curve is flat.

        Args:
            result: a sweep of the same model with scope "from".
            condition: which of its curves; ``None`` means the first.

        Raises:
            ResultError: if the result has no such condition, other layers or another scope.
        """
        from icl_locate.studies.location import bootstrap_curves

        name = condition or result.conditions[0]
        scope = result.provenance.get("scope", "from")
        if scope != "from":
            raise ResultError(f"the sweep's scope is {scope!r}: expected one with scope 'from'")
        if name not in result.conditions or max(self.layers) >= result.n_layers:
            raise ResultError(
                f"the sweep has the conditions {', '.join(result.conditions)} and "
                f"{result.n_layers} layers: expected {name!r}, and layers up to {max(self.layers)}"
            )
        place, chosen = result.conditions.index(name), list(self.layers)
        curve = result.scores[place].mean(dim=-1).numpy()[chosen]
        masked = bootstrap_curves(result, n_resamples, seed)[:, place][:, chosen]
        tuned = self._samples(n_resamples, seed + 1)
        rhos = [_spearman(a, b) for a, b in zip(tuned, masked, strict=True)]
        known = np.array([rho for rho in rhos if not np.isnan(rho)])  # a flat curve has no ranks
        if not len(known):
            return np.nan, np.nan, np.nan
        n_items = min(self._n_items, len(result.targets))
        low, high = percentile_interval(known, confidence, n_items)
        return _spearman(self.scores.mean(dim=-1).numpy(), curve), float(low), float(high)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a run: layer, seed, score, dev_loss, n_epochs."""
        return pd.DataFrame(
            [
                {
                    "layer": layer,
                    "seed": seed,
                    "score": float(self.scores[i, j]),
                    "dev_loss": float(self.dev_losses[i, j]),
                    "n_epochs": int(self.n_epochs[i, j]),
                }
                for i, layer in enumerate(self.layers)
                for j, seed in enumerate(self.seeds)
            ]
        )

    @property
    def _n_items(self) -> int:
        return self.statistics.shape[2]

    def _samples(self, n_resamples: int, seed: int) -> Any:
        metric = find_scorer(self.metric, self.custom_metric, self.provenance)
        return bootstrap_scores(metric, self.statistics.numpy(), n_resamples, seed)


def _spearman(a: Any, b: Any) -> float:
    ranks = pd.Series(a).rank(), pd.Series(b).rank()
    if any(some.nunique() < 2 for some in ranks):
        return float("nan")  # a flat curve has no order, of which earlier versions of pandas warn
    return float(ranks[0].corr(ranks[1]))
