"""Results that score every head of a model, and sets of heads as results hold them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.arguments import check_count, check_seeds, refuse
from icl_locate.checks.contents import check_pairs, check_table, settle
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import MaskError, ResultError
from icl_locate.interventions.heads import HeadSet
from icl_locate.studies.draws import percentiles
from icl_locate.studies.intervals import Spread
from icl_locate.studies.result import Measured

if TYPE_CHECKING:
    import pandas as pd


class HeadTable(
    Measured,
    axes={"layer": "layers", "head": "heads", "seed": "seeds"},
    form="",
    tensors=(),
    labels=(),
):
    """A result with a score of each head; a base of frozen dataclasses, which say `_gains`.

    Attributes:
        seeds: each drew other examples.
        statistics: each item's sufficient statistics; cell ``layer * n_heads + head``, and behind
            them the ceiling and the floor.
        scores: the metric over all items.
        ceiling, floor: what heads are held against.
    """

    seeds: tuple[int, ...]
    ceiling: Tensor
    floor: Tensor

    def _check(self) -> None:
        settle(self, seeds=check_seeds(self.seeds, error=ResultError))
        check_table("scores", self.scores, (None, None, len(self.seeds)))
        super()._check()
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
        """What each head is worth, the mean over seeds.

        What it gains on the floor, or what the ceiling loses by it, as the result says.
        """
        above: Tensor = self.scores - self.floor if self._gains() else self.ceiling - self.scores
        return above.mean(dim=-1)

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
    def best(self, n: int) -> HeadSet:
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
        return cells.combine(heads - floor if self._gains() else ceiling - heads)

    def _gains(self) -> bool:
        """Whether a head's worth is what it gains on the floor, not what the ceiling loses."""
        raise NotImplementedError


def as_head_set(value: Any) -> HeadSet:
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
