"""Results that score every head of a model, and sets of heads as results hold them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_count, refuse
from icl_locate.checks.contents import check_pairs, check_table
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import MaskError, ResultError
from icl_locate.interventions.heads import HeadSet
from icl_locate.studies.beside import Beside
from icl_locate.studies.draws import percentiles
from icl_locate.studies.intervals import Spread

if TYPE_CHECKING:
    import pandas as pd


class HeadTable(
    Beside,
    axes={"layer": "layers", "head": "heads", "seed": "seeds"},
    beside=("ceiling", "floor"),
    form="",
    tensors=(),
    labels=(),
):
    """A result with a score of each head; a base of frozen dataclasses, which say `_gains`.

    Attributes:
        scores: the metric over all items, ``[layer, head, seed]``.
        ceiling, floor: what heads are held against, ``[seed]``.
    """

    ceiling: Tensor
    floor: Tensor

    def _check(self) -> None:
        check_table("scores", self.scores, (None, None, None))
        super()._check()

    @property
    def layers(self) -> range:
        """The model's layers."""
        return range(self.scores.shape[0])

    @property
    def heads(self) -> range:
        """The heads of a layer."""
        return range(self.scores.shape[1])

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
        check_count("layer", layer, least=0, most=len(self.layers), error=ResultError)
        worth = self._worth()
        table = np.concatenate([worth.mean[None], worth.draws(n_resamples, seed)]).clip(min=0)
        with np.errstate(invalid="ignore"):
            shares = table[:, : layer * len(self.heads)].sum(axis=1) / table.sum(axis=1)
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
        if self._gains():
            return self._against("floor")
        lost = self._against("ceiling")
        return Spread(-lost.scores, -lost.influence)

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
