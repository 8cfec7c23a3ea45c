"""What sweeps over heads and sets of heads found."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.arguments import (
    check_choice,
    check_count,
    check_counts,
    check_number,
    check_seeds,
    check_text,
    refuse,
)
from icl_locate.checks.contents import check_pairs, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import MaskError, ResultError
from icl_locate.interventions.heads import HeadSet
from icl_locate.metrics import Metric
from icl_locate.studies.draws import percentiles
from icl_locate.studies.intervals import Spread
from icl_locate.studies.result import Measured

if TYPE_CHECKING:
    import pandas as pd


@short_repr("model", "task", "metric", "mode", "condition", "seeds", "worth")
@dataclass(frozen=True)
class HeadSweepResult(
    Measured,
    axes={"layer": "layers", "head": "heads", "seed": "seeds"},
    form="icl_locate.HeadSweepResult/2",
    former="icl_locate.HeadSweepResult/1",
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
        )
        check_table("scores", self.scores, (None, None, len(self.seeds)))
        self._check()
        check_table("ceiling", self.ceiling, (len(self.seeds),))
        check_table("floor", self.floor, (len(self.seeds),))

    @property
    def layers(self) -> range:
        """The model's layers."""
        return range(self.scores.shape[0])

    @property
    def heads(self) -> range:
        """The heads of a layer."""
        return range(self.scores.shape[1])

    def _shape_of_statistics(self) -> tuple[int, ...]:
        return len(self.layers) * len(self.heads) + 2, len(self.seeds)

    def _scored(self, statistics: ndarray) -> list[tuple[ndarray, ndarray]]:
        parts = self.scores.flatten(0, 1), self.ceiling[None], self.floor[None]
        return [(statistics.sum(axis=-2), torch.cat(parts).numpy())]

    def spread(self) -> Spread:
        """How the heads' scores scatter over items and seeds.

        Raises:
            ResultError: if the metric is not known here.
        """
        n_layers, n_heads = len(self.layers), len(self.heads)
        return super().spread()[np.arange(n_layers * n_heads).reshape(n_layers, n_heads)]

    @property
    def worth(self) -> Float[Tensor, "layer head"]:
        """What a head's reading of the context is worth.

        Hidden: what is lost of the ceiling without it. Kept: what is gained on the floor by it.
        """
        if self.mode == "hidden":
            return (self.ceiling - self.scores).mean(dim=-1)
        return (self.scores - self.floor).mean(dim=-1)

    @checked(ResultError)
    def interval(self, confidence: float = 0.95) -> Float[Tensor, "bound layer head"]:
        """Of each head's worth, from the scatter over items and seeds; row 0 low, row 1 high.

        Student's, of the difference on the same items and seeds; NaN for a single item.

        Raises:
            ResultError: if the confidence is out of range, or the metric is not known here.
        """
        found = self._worth().interval(confidence)
        return torch.from_numpy(found).view(2, *self.worth.shape)

    @checked(ResultError)
    def share_below(
        self, layer: int, confidence: float = 0.95, *, n_resamples: int = 1000, seed: int = 0
    ) -> tuple[float, float, float]:
        """The share of all heads' worth that lies in layers below ``layer``: (share, low, high).

        With a recognition layer it says whether the layers before it hold the heads. Worth below 0
        counts as 0; NaN if no head is worth anything. The interval is of shares as they may come
        out another time, on other items under other seeds; NaN for a single item.

        Args:
            layer: from 0 to the number of layers.
            confidence: of the interval.
            n_resamples: how many shares are drawn.
            seed: of their own generator.

        Raises:
            ResultError: if the layer or the confidence is out of range.
        """
        n_layers, n_heads = self.worth.shape
        check_count("layer", layer, least=0, most=n_layers, error=ResultError)
        worth = self._worth()
        table = np.concatenate([worth.mean[None], worth.draws(n_resamples, seed)]).clip(min=0)
        with np.errstate(invalid="ignore"):
            shares = table[:, : layer * n_heads].sum(axis=1) / table.sum(axis=1)
        known = shares[1:][~np.isnan(shares[1:])]
        low, high = percentiles(known, confidence) if len(known) else (np.nan, np.nan)
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

    def _worth(self) -> Spread:
        """How the heads' worth scatters; a cell a head."""
        cells = super().spread()
        *heads, ceiling, floor = np.eye(len(cells.mean))
        return cells.combine(ceiling - heads if self.mode == "hidden" else heads - floor)


@short_repr("model", "task", "mode", "metric", "sizes", "floor", "ceiling", "scores")
@dataclass(frozen=True)
class HeadSetCurve(
    Measured,
    axes={"size": "sizes", "seed": "seeds"},
    form="icl_locate.HeadSetCurve/1",
    tensors=("statistics", "scores"),
    labels=("mode", "heads", "sizes", "seeds", "ceiling", "floor", "metric", "provenance"),
):
    """The scores of growing sets of heads.

    Attributes:
        mode: "hidden": the context is hidden from the set; "kept": from all heads but the set.
        heads: in the order in which they join.
        sizes: how many of them each set holds; the first set is empty.
        seeds: each drew other examples.
        statistics: each item's sufficient statistics of the metric.
        scores: the metric over all items.
        ceiling, floor: with nothing hidden, and with the context hidden from every head.
        metric: its name.
        provenance: model, task, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    mode: str
    heads: HeadSet
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "size seed item stat"]
    scores: Float[Tensor, "size seed"]
    ceiling: float
    floor: float
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            mode=check_choice("mode", self.mode, ("hidden", "kept"), error=ResultError),
            heads=_as_head_set(self.heads),
            sizes=check_counts("sizes", self.sizes, least=0, ascending=True, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
            ceiling=check_number("ceiling", self.ceiling, error=ResultError),
            floor=check_number("floor", self.floor, error=ResultError),
        )
        self._check()

    @cached_property
    def interval(self) -> Float[Tensor, "bound size"]:
        """Of the means over seeds, 95 %, Student's; row 0 low, row 1 high."""
        return self.score_interval()


def _as_head_set(value: Any) -> HeadSet:
    """The set itself, or as a file holds it."""
    if isinstance(value, HeadSet):
        return value
    names = ("heads", "n_layers", "n_heads")
    if not isinstance(value, Mapping) or set(value) != set(names):
        refuse("heads", value, "a HeadSet", ResultError)
    pairs = check_pairs("heads", value["heads"])
    sizes = [check_count(name, value[name], error=ResultError) for name in names[1:]]
    try:
        return HeadSet(pairs, *sizes)
    except MaskError as error:
        raise ResultError(f"heads are no set of heads: {error}") from error
