"""What every result has: statistics over named axes, what scores them, and their recipe."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.arguments import check_items, check_text
from icl_locate.checks.contents import check_recipe, check_table, settle
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.metrics import (
    METRICS,
    Metric,
    check_statistics,
    find_scorer,
    is_calibrated,
    score_totals,
    uncalibrated_signature,
)
from icl_locate.records.saved import Saved
from icl_locate.studies.intervals import Spread

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


R = TypeVar("R", bound="Measured")
_RAW = "label_accuracy"


class Measured(Saved, form="", tensors=(), labels=()):
    """A result that knows its axes, its intervals and its recipe; a base of frozen dataclasses.

    Subclasses name their axes, such as ``axes={"layer": "layers", "seed": "seeds"}``: an axis, and
    the field that holds its labels. The axis "seed" stands last, if there is one. All have:

    Attributes:
        statistics: each item's sufficient statistics of the metric, ``[*axes, item, stat]``; they
            add up over items. ``None`` where a file of an earlier version holds none.
        scores: the metric over all items, ``[*axes]``.
        metric: the metric's name; its signature stands in ``provenance``.
        provenance: model, task, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    _axes: ClassVar[Mapping[str, str]]

    statistics: Any
    scores: Any
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None

    def __init_subclass__(cls, *, axes: Mapping[str, str], **files: Any) -> None:
        super().__init_subclass__(**files)
        cls._axes = axes

    def __post_init__(self) -> None:
        """Check what every result has; a subclass that has more calls `_check` from its own."""
        self._check()

    def _check(self) -> None:
        """Refuse what does not fit the labels; called by subclasses when they are made."""
        for axis, name in self._axes.items():
            if name in self._labels:
                expected = f"the labels of the axis {axis!r}"
                labels = check_items(
                    name, getattr(self, name), expected, ordered=True, error=ResultError
                )
                settle(self, **{name: tuple(labels)})
        settle(
            self,
            metric=check_text("metric", self.metric, error=ResultError),
            provenance=check_recipe(self.provenance),
        )
        cells = self._shape()
        check_table("scores", self.scores, cells)
        if self.statistics is not None:
            check_table("statistics", self.statistics, (*self._shape_of_statistics(), None, None))
            check_statistics(
                self.statistics.numpy(), self.metric, self.custom_metric, self.provenance
            )

    def _shape(self) -> tuple[int, ...]:
        """How many cells there are along each axis."""
        return tuple(len(getattr(self, labels)) for labels in self._axes.values())

    def _shape_of_statistics(self) -> tuple[int, ...]:
        """The same of the statistics, for results that keep more cells than they score."""
        return self._shape()

    def _check_former(self) -> None:
        """Refuse scores that the statistics do not give; of some metrics that cannot be told."""
        if self.statistics is None:
            return
        try:
            metric = self.scorer()
        except ResultError:
            return
        for statistics, scores in self._scored(self.statistics.numpy()):
            if not np.allclose(score_totals(metric, statistics), scores, rtol=1e-9, atol=1e-12):
                raise ResultError(
                    "the scores are not those of the statistics: the file of the first format is "
                    "damaged; take another copy of it, or run again"
                )

    def _scored(self, statistics: ndarray) -> list[tuple[ndarray, ndarray]]:
        """Summed statistics, and the scores that a metric gives of them."""
        return [(statistics.sum(axis=-2), self.scores.numpy())]

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The axes of ``scores``, in their order, with their labels."""
        return {axis: self._names(axis) for axis in self._axes}

    @property
    def n_items(self) -> int:
        """Queries that every cell answered."""
        return int(self._known_statistics().shape[-2])

    def scorer(self) -> Metric:
        """The metric that turns summed statistics into scores.

        Raises:
            ResultError: for a custom metric after loading: what it computes is not in the file.
        """
        return find_scorer(self.metric, self.custom_metric, self.provenance)

    @checked(ResultError)
    def score_interval(self, confidence: float = 0.95) -> Float[Tensor, "bound *cell"]:
        """Of each cell's score, the mean over seeds; row 0 low, row 1 high; NaN for a single item.

        Student's, from the scatter over items and seeds.

        Raises:
            ResultError: if the confidence is out of range, or the metric is not known here.
        """
        return torch.from_numpy(self.spread().interval(confidence))

    @property
    def is_calibrated(self) -> bool:
        """Whether the metric is a calibrated label accuracy: `uncalibrated` gives the raw one."""
        return is_calibrated(self.metric, self.custom_metric)

    def uncalibrated(self: R) -> R:
        """The label accuracy of the same run, without calibration; holds no answers.

        Raises:
            ResultError: if the metric is no calibrated label accuracy; if the result has scores
                that it does not hold the items' statistics of.
        """
        if not self.is_calibrated:
            raise ResultError(
                f"the metric is {self.metric!r}: expected a calibrated one, such as "
                "'label_accuracy_contextual', which has another score without calibration"
            )
        signature = uncalibrated_signature(str(self.provenance.get("signature", "")))
        how = {"signature": signature, "metric_is_mean": True, "gives_text": False}
        found: Any = replace(
            cast(Any, self),
            **self._rescored(self._known_statistics()[..., 1:], METRICS[_RAW]),
            metric=_RAW,
            provenance={**self.provenance, **how, "measured_as": self.metric},
        )
        return cast(R, found)

    def _rescored(self, statistics: Tensor, metric: Metric) -> dict[str, Any]:  # noqa: ARG002
        """The fields that other statistics of the same items decide, these among them."""
        raise ResultError(
            f"a {type(self).__name__} has scores that it holds no statistics of items of: run it "
            f"again with metric={_RAW!r}"
        )

    def spread(self) -> Spread:
        """How the scores scatter over items and seeds, with the axes of the scores.

        Raises:
            ResultError: if the metric is not known here.
        """
        table = self._known_statistics().numpy()
        if "seed" not in self._axes:
            table = np.expand_dims(table, -3)
        return Spread.of(self.scorer(), table)

    def to_xarray(self) -> "xr.Dataset":
        """The scores as a labelled dataset over the axes."""
        import xarray as xr

        return xr.Dataset(
            {"score": (tuple(self._axes), self.scores.numpy())},
            coords=self.axes,
            attrs={"metric": self.metric, "signature": str(self.provenance.get("signature", ""))},
        )

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a cell: its labels and its score."""
        frame = self.to_xarray()["score"].to_dataframe().reset_index()
        return frame[[*self._axes, "score"]]

    def _names(self, axis: str) -> list[Any]:
        """An axis's labels, as tables show them."""
        return list(getattr(self, self._axes[axis]))

    def _known_statistics(self) -> Tensor:
        if not isinstance(self.statistics, Tensor):
            raise ResultError(
                "this file of an earlier version holds no statistics of single items: there is no "
                "interval; run again to have one"
            )
        return self.statistics


def rescored(statistics: Tensor, metric: Metric) -> dict[str, Tensor]:
    """Statistics, and what a metric makes of them."""
    found = score_totals(metric, statistics.sum(dim=-2).numpy())
    return {"statistics": statistics.contiguous(), "scores": torch.from_numpy(found)}
