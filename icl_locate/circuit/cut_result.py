"""What disconnections cost, beside cuts of as many random edges."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_items, refuse
from icl_locate.checks.contents import check_names, check_pairs, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.circuit.edges import EDGES
from icl_locate.circuit.result import ArmCurve
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.studies.beside import Beside
from icl_locate.studies.intervals import Spread

if TYPE_CHECKING:
    import pandas as pd


@short_repr("model", "task", "metric", "edges", "arms", "windows", "seeds", "scores", "ceiling")
@dataclass(frozen=True)
class Disconnections(
    Beside,
    axes={"edge": "edges", "arm": "arms", "window": "windows", "seed": "seeds"},
    beside=("ceiling",),
    form="icl_locate.Disconnections/1",
    tensors=("statistics", "scores", "ceiling"),
    labels=("edges", "arms", "windows", "seeds", "metric", "provenance"),
):
    """The scores of a task with kinds of edges cut in windows of layers.

    Attributes:
        edges: the kinds, as `CircuitEdges` names them.
        arms: "cut", and behind it the controls, such as "random 0": as many edges at random.
        windows: (start, stop) layers; in the window are those from ``start`` to ``stop - 1``.
        seeds: each drew other examples.
        statistics: each query's sufficient statistics of the metric; cell
            ``(edge * n_arms + arm) * n_windows + window``, and behind them the ceiling.
        scores: the metric over all queries.
        ceiling: with nothing cut.
        metric: its name.
        provenance: model, task, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    edges: tuple[str, ...]
    arms: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    scores: Float[Tensor, "edge arm window seed"]
    ceiling: Float[Tensor, "seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        arms = check_names("arms", self.arms, distinct=True)
        if arms[0] != "cut":
            refuse("arms", arms, "'cut', and its controls behind it", ResultError)
        windows = check_pairs("windows", self.windows, of="(start, stop)")
        if not windows or any(start >= stop for start, stop in windows):
            refuse("windows", windows, "(start, stop) layers, at least one of each", ResultError)
        settle(self, edges=_as_edges(self.edges), arms=arms, windows=windows)
        self._check()

    def damage(self) -> Spread:
        """How far each score lies below that with nothing cut, with the axes of the scores.

        Of differences on the same queries under the same seeds: ``.mean`` and ``.interval()``.

        Raises:
            ResultError: if the metric is not known here.
        """
        return self.spread_of("ceiling") - self.spread()

    def beyond_control(self) -> Spread:
        """How far each cut lies below the mean of its controls, with the axes edge and window.

        Of differences on the same queries under the same seeds. Each prompt has edges of its own
        drawn, so that their scatter is in that of the queries.

        Raises:
            ResultError: if there are no controls, or the metric is not known here.
        """
        n = self._require_controls()
        edge, window, arm = np.ogrid[: len(self.edges), : len(self.windows), : n + 1]
        return self.spread()[edge, arm, window].combine([[-1.0, *[1 / n] * n]])[..., 0]

    @checked(ResultError)
    def curve(self, edge: str, *, beyond_control: bool = False) -> ArmCurve:
        """The damage over the layers, where each was cut alone, as `vectors.locate_peak` takes it.

        Args:
            beyond_control: whether it is counted from the mean of the controls.

        Raises:
            ResultError: no such edges, or no controls; windows that are no single layers; a metric
                that is no mean over queries.
        """
        place = self.edges.index(check_choice("edge", edge, self.edges, error=ResultError))
        layers = tuple(start for start, _ in self.windows)
        if [*self.windows] != [(layer, layer + 1) for layer in sorted(layers)]:
            raise ResultError(
                f"the windows are {self._names('window')[:8]}: a curve over layers asks for single "
                "ones, ascending; run with windows='layers'"
            )
        if not (self.is_calibrated or self.provenance.get("metric_is_mean") is True):
            raise ResultError(
                f"the metric {self.metric!r} is no mean over queries, so that no query has a "
                "damage of its own: expected one such as label_accuracy or log_prob"
            )
        values = self.statistics[..., 0] / self.statistics[..., -1]  # of each query
        cells = values[:-1].view(*self._shape(), -1)[place]
        if beyond_control:
            self._require_controls()
        lost = (cells[1:].mean(dim=0) if beyond_control else values[-1]) - cells[0]
        return ArmCurve(
            layers=layers,
            seeds=self.seeds,
            statistics=torch.stack([lost, torch.ones_like(lost)], dim=-1),
            scores=lost.mean(dim=-1),
            metric=f"damage to {self.metric}",
            provenance={**self.provenance, "edge": edge, "beyond_control": beyond_control},
        )

    @checked(ResultError)
    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row a window of an arm: their labels, score, damage, each with its low and high.

        Raises:
            ResultError: if the confidence is out of range, or the metric is not known here.
        """
        frame = super().to_dataframe()
        frame = frame[frame["seed"] == self.seeds[0]].drop(columns=["seed", "score"])
        for name, spread in (("score", self.spread()), ("damage", self.damage())):
            low, high = spread.interval(confidence)
            frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = (
                values.ravel() for values in (spread.mean, low, high)
            )
        return frame.reset_index(drop=True)

    def _require_controls(self) -> int:
        if len(self.arms) == 1:
            raise ResultError(
                "nothing random was cut beside: there is no control; run with controls=1 or more"
            )
        return len(self.arms) - 1

    def _names(self, axis: str) -> list[Any]:
        if axis != "window":
            return super()._names(axis)
        return [say_window(start, stop) for start, stop in self.windows]


def say_window(start: int, stop: int) -> str:
    """A window as tables say it, by its first and last layer.

    >>> say_window(0, 3), say_window(4, 5)
    ('0-2', '4')
    """
    return f"{start}-{stop - 1}" if stop > start + 1 else str(start)


def _as_edges(given: Any) -> tuple[str, ...]:
    expected = f"kinds of edges, each once, of {', '.join(EDGES)}"
    edges = check_items("edges", given, expected, ordered=True, error=ResultError)
    for edge in edges:
        check_choice("edges", edge, EDGES, error=ResultError)
    if not edges or len(set(edges)) < len(edges):
        refuse("edges", edges, expected, ResultError)
    return tuple(edges)
