"""What sweeps over heads and sets of heads found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_count, check_seeds, check_text
from icl_locate.checks.contents import check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import MaskError, ResultError
from icl_locate.interventions.heads import HeadSet
from icl_locate.metrics import Metric, check_statistics, find_scorer
from icl_locate.records.saved import Saved
from icl_locate.studies.intervals import bootstrap_scores, percentile_interval

if TYPE_CHECKING:
    import pandas as pd


@short_repr("model", "task", "metric", "mode", "condition", "seeds", "worth")
@dataclass(frozen=True)
class HeadSweepResult(
    Saved,
    form="icl_locate.HeadSweepResult/2",
    tensors=("statistics", "scores", "ceiling", "floor"),
    labels=("mode", "condition", "seeds", "metric", "provenance"),
):
    """The scores of a sweep over heads.

    Attributes:
        mode: "hidden": the context is hidden from this head alone; "kept": from all others.
        condition: what is hidden.
        seeds: each drew other examples.
        statistics: each item's sufficient statistics; cell ``layer * n_heads + head``, and behind
            them the ceiling and the floor.
        scores: the metric over all items.
        ceiling, floor: with nothing hidden, and with the context hidden from every head.
        metric: its name.
        provenance: model, task, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    mode: str
    condition: str
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    scores: Float[Tensor, "layer head seed"]
    ceiling: Float[Tensor, "seed"]
    floor: Float[Tensor, "seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            mode=check_choice("mode", self.mode, ("hidden", "kept"), error=ResultError),
            condition=check_text("condition", self.condition, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
            metric=check_text("metric", self.metric, error=ResultError),
            provenance=check_recipe(self.provenance),
        )
        n_seeds = len(self.seeds)
        check_table("scores", self.scores, (None, None, n_seeds))
        n_layers, n_heads, _ = self.scores.shape
        check_table("statistics", self.statistics, (n_layers * n_heads + 2, n_seeds, None, None))
        check_table("ceiling", self.ceiling, (n_seeds,))
        check_table("floor", self.floor, (n_seeds,))
        check_statistics(self.statistics.numpy(), self.metric, self.custom_metric, self.provenance)

    @property
    def worth(self) -> Float[Tensor, "layer head"]:
        """What a head's reading of the context is worth.

        Hidden: what is lost of the ceiling without it. Kept: what is gained on the floor by it.
        """
        if self.mode == "hidden":
            return (self.ceiling - self.scores).mean(dim=-1)
        return (self.scores - self.floor).mean(dim=-1)

    @checked(ResultError)
    def interval(
        self, confidence: float = 0.95, *, n_resamples: int = 1000, seed: int = 0
    ) -> Float[Tensor, "bound layer head"]:
        """Of each head's worth, by paired bootstrap over items and seeds; row 0 low, row 1 high.

        NaN for a single item.

        Raises:
            ResultError: if the confidence is out of range, or the metric is not known here.
        """
        worth = self._resampled(n_resamples, seed)
        found = percentile_interval(worth, confidence, self.statistics.shape[2])
        return torch.from_numpy(found).view(2, *self.worth.shape)

    @checked(ResultError)
    def share_below(
        self, layer: int, confidence: float = 0.95, *, n_resamples: int = 1000, seed: int = 0
    ) -> tuple[float, float, float]:
        """The share of all heads' worth that lies in layers below ``layer``: (share, low, high).

        With a recognition layer it says whether the layers before it hold the heads. Worth below 0
        counts as 0; NaN if no head is worth anything.

        Raises:
            ResultError: if the layer or the confidence is out of range.
        """
        n_layers, n_heads = self.worth.shape
        check_count("layer", layer, least=0, most=n_layers, error=ResultError)
        samples = self._resampled(n_resamples, seed)
        table = np.concatenate([self.worth.numpy().reshape(1, -1), samples]).clip(min=0)
        with np.errstate(invalid="ignore"):
            shares = table[:, : layer * n_heads].sum(axis=1) / table.sum(axis=1)
        known = shares[1:][~np.isnan(shares[1:])]
        if not len(known):
            return np.nan, np.nan, np.nan
        low, high = percentile_interval(known, confidence, self.statistics.shape[2])
        return float(shares[0]), float(low), float(high)

    @checked(ResultError)
    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row a head, the greatest worth first: layer, head, score, worth, low, high."""
        import pandas as pd

        low, high = self.interval(confidence)
        n_layers, n_heads = self.worth.shape
        columns = {
            "layer": torch.arange(n_layers).repeat_interleave(n_heads),
            "head": torch.arange(n_heads).repeat(n_layers),
            "score": self.scores.mean(dim=-1),
            "worth": self.worth,
            "low": low,
            "high": high,
        }
        frame = pd.DataFrame({name: value.flatten().numpy() for name, value in columns.items()})
        return frame.sort_values("worth", ascending=False, ignore_index=True)

    @checked(MaskError, n=anything)
    def best(self, n: int) -> "HeadSet":
        """The ``n`` heads of the greatest worth, the greatest first.

        Raises:
            MaskError: if there are not so many heads.
        """
        n_layers, n_heads = self.worth.shape
        check_count("n", n, most=n_layers * n_heads, error=MaskError)
        order = self.worth.flatten().argsort(descending=True, stable=True)[:n].tolist()
        return HeadSet(tuple(divmod(place, n_heads) for place in order), n_layers, n_heads)

    def _resampled(self, n_resamples: int, seed: int) -> Any:
        metric = find_scorer(self.metric, self.custom_metric, self.provenance)
        samples = bootstrap_scores(metric, self.statistics.numpy(), n_resamples, seed)
        if self.mode == "hidden":
            return samples[:, -2:-1] - samples[:, :-2]
        return samples[:, :-2] - samples[:, -1:]


@short_repr("mode", "metric", "sizes", "floor", "ceiling", "scores")
@dataclass(frozen=True)
class HeadSetCurve:
    """The scores of growing sets of heads.

    Attributes:
        mode: "hidden": the context is hidden from the set; "kept": from all heads but the set.
        heads: in the order in which they join.
        sizes: how many of them each set holds; the first set is empty.
        scores: the metric over all items.
        interval: of the means over seeds, 95 % by paired bootstrap; row 0 low, row 1 high.
        ceiling, floor: with nothing hidden, and with the context hidden from every head.
        metric: its name.
    """

    mode: str
    heads: HeadSet
    sizes: tuple[int, ...]
    scores: Float[Tensor, "size seed"]
    interval: Float[Tensor, "bound size"]
    ceiling: float
    floor: float
    metric: str
