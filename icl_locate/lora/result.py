"""What adapters of single layers learnt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from icl_locate.checks.arguments import LAST_SEED, check_counts, check_number, check_seeds
from icl_locate.checks.contents import check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.studies.draws import percentiles
from icl_locate.studies.ranks import spearman
from icl_locate.studies.result import Measured


@short_repr("model", "task", "metric", "layers", "seeds", "untuned", "scores")
@dataclass(frozen=True)
class LoraResult(
    Measured,
    axes={"layer": "layers", "seed": "seeds"},
    form="icl_locate.LoraResult/2",
    former="icl_locate.LoraResult/1",
    tensors=("statistics", "scores", "dev_losses", "n_epochs"),
    labels=("layers", "seeds", "metric", "untuned", "provenance"),
    later=("untuned_statistics",),
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
        provenance: model, task, configuration, projections' names, versions. ``fingerprint`` is of
            the model as transformers has it: other experiments' are of its bridge, and differ.
        custom_metric: the metric itself if it is none of the package's; not saved.
        untuned_statistics: each item's without any adapter; ``None`` in files of earlier versions.
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
    untuned_statistics: Float[Tensor, "item stat"] | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
            untuned=check_number("untuned", self.untuned, error=ResultError),
        )
        self._check()
        check_table("dev_losses", self.dev_losses, self._shape())
        check_table("n_epochs", self.n_epochs, self._shape(), whole=True)
        if self.untuned_statistics is not None:
            check_table("untuned_statistics", self.untuned_statistics, self.statistics.shape[-2:])

    @checked(ResultError)
    def interval(self, confidence: float = 0.95) -> Float[Tensor, "bound layer"]:
        """Of the mean score of each layer: `score_interval`."""
        return self.score_interval(confidence)

    @checked(ResultError)
    def rank_correlation(
        self,
        result: Measured,
        condition: str | None = None,
        *,
        confidence: float = 0.95,
        n_resamples: int = 1000,
        seed: int = 0,
    ) -> tuple[float, float, float]:
        """Spearman's rank correlation with a masking curve over the layers: (rho, low, high).

        Layer ``l`` tuned against the context hidden from ``l`` on. Layers before the task is
        recognised are expected to train well where masking still hurts: a negative correlation. The
        interval is of correlations as they may come out another time, on other items under other
        seeds for both; NaN if a curve is flat, or of a single item.

        Args:
            result: a sweep of the same model with scope "from".
            condition: which of its curves; ``None`` means the first.
            confidence: of the interval.
            n_resamples: how many pairs of curves are drawn.
            seed: of their own generators.

        Raises:
            ResultError: if the result has no such condition, other layers or another scope.
        """
        place, starts = self._curve_of(result, condition)
        tuned, masked = self.spread(), result.spread()[place][starts]
        other = (seed + 1) % (LAST_SEED + 1)  # tuned models draw items of their own
        curves = tuned.draws(n_resamples, other), masked.draws(n_resamples, seed)
        rhos = np.array([spearman(a, b) for a, b in zip(*curves, strict=True)])
        known = rhos[~np.isnan(rhos)]  # a flat curve has no ranks
        low, high = percentiles(known, confidence) if len(known) else (np.nan, np.nan)
        return spearman(tuned.mean, masked.mean), float(low), float(high)

    def _curve_of(self, result: Measured, condition: str | None) -> tuple[int, list[int]]:
        """Where a sweep holds a condition, and where these layers."""
        if tuple(result.axes) != ("condition", "layer", "seed"):
            raise ResultError(
                f"result is a {type(result).__name__}: expected what icl_locate.sweep gave"
            )
        scope = result.provenance.get("scope", "from")
        if scope != "from":
            raise ResultError(f"the sweep's scope is {scope!r}: expected one with scope 'from'")
        conditions, layers = result.axes["condition"], result.axes["layer"]
        name = condition or conditions[0]
        if name not in conditions or not {*self.layers} <= {*layers[:-1]}:
            raise ResultError(
                f"the sweep has the conditions {', '.join(conditions)} and the start layers "
                f"{', '.join(map(str, layers))}: expected {name!r}, and the tuned layers "
                f"{', '.join(map(str, self.layers))} among them"
            )
        return conditions.index(name), [layers.index(layer) for layer in self.layers]

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
