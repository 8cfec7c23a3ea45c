"""What dropping the context was measured to save, and to cost in answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from icl_locate.checks.arguments import check_counts
from icl_locate.checks.contents import check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.studies.result import Measured

if TYPE_CHECKING:
    import pandas as pd


@short_repr("model", "task", "metric", "layers", "prefill_seconds", "scores")
@dataclass(frozen=True)
class MeasuredSavings(
    Measured,
    axes={"layer": "layers"},
    form="icl_locate.MeasuredSavings/2",
    former="icl_locate.MeasuredSavings/1",
    tensors=(
        "prefill_seconds",
        "decode_seconds",
        "peak_bytes",
        "cache_bytes",
        "scores",
        "interval",
    ),
    labels=("layers", "metric", "provenance"),
    later=("statistics",),
):
    """What generation takes, and gives, with the context dropped from each of some layers on.

    Attributes:
        layers: the start layers; the last, ``n_layers``, is ordinary generation.
        prefill_seconds: until the first new token of all prompts.
        decode_seconds: for all further tokens.
        peak_bytes: the most that tensors made by the run took at once.
        cache_bytes: keys and values at the end.
        scores: the task's metric on the answers.
        interval: of the scores, 95 %, Student's, from the scatter over items; row 0 low, row 1
            high; NaN if there is one item.
        metric: its name.
        provenance: model, task, prompts' hash, sizes, versions.
        statistics: each item's sufficient statistics of the metric.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    layers: tuple[int, ...]
    prefill_seconds: Float[Tensor, "layer repeat"]
    decode_seconds: Float[Tensor, "layer repeat"]
    peak_bytes: Int[Tensor, "layer"]
    cache_bytes: Int[Tensor, "layer"]
    scores: Float[Tensor, "layer"]
    interval: Float[Tensor, "bound layer"]
    metric: str
    provenance: Mapping[str, Any]
    statistics: Float[Tensor, "layer item stat"] | None = None
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
        )
        self._check()
        n = len(self.layers)
        check_table("prefill_seconds", self.prefill_seconds, (n, None))
        check_table("decode_seconds", self.decode_seconds, tuple(self.prefill_seconds.shape))
        check_table("peak_bytes", self.peak_bytes, (n,), whole=True)
        check_table("cache_bytes", self.cache_bytes, (n,), whole=True)
        check_table("interval", self.interval, (2, n), finite=False)  # NaN for a single item
        if not self.prefill_seconds.shape[1]:
            raise ResultError("prefill_seconds has no columns: expected one for each repeat")

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a layer; each ``saved`` is a share of ordinary generation, times by medians."""
        import pandas as pd

        prefill, decode = (
            seconds.median(dim=1).values for seconds in (self.prefill_seconds, self.decode_seconds)
        )

        def saved(values: Tensor) -> Any:
            return (1 - values / values[-1]).numpy()

        return pd.DataFrame(
            {
                "from_layer": self.layers,
                self.metric: self.scores.numpy(),
                "low": self.interval[0].numpy(),
                "high": self.interval[1].numpy(),
                "prefill_seconds": prefill.numpy(),
                "prefill_saved": saved(prefill),
                "decode_seconds": decode.numpy(),
                "decode_saved": saved(decode),
                "peak_bytes": self.peak_bytes.numpy(),
                "peak_saved": saved(self.peak_bytes),
                "cache_bytes": self.cache_bytes.numpy(),
                "cache_saved": saved(self.cache_bytes),
            }
        )
