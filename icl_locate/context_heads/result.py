"""What sweeps over heads and sets of heads found."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import (
    check_choice,
    check_counts,
    check_number,
    check_seeds,
    check_text,
)
from icl_locate.checks.contents import settle
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import ResultError
from icl_locate.interventions.heads import HeadSet
from icl_locate.metrics import Metric
from icl_locate.studies.heads import HeadTable, as_head_set
from icl_locate.studies.result import Measured


@short_repr("model", "task", "metric", "mode", "condition", "seeds", "worth")
@dataclass(frozen=True)
class HeadSweepResult(
    HeadTable,
    axes={"layer": "layers", "head": "heads", "seed": "seeds"},
    form="icl_locate.HeadSweepResult/2",
    former="icl_locate.HeadSweepResult/1",
    tensors=("statistics", "scores", "ceiling", "floor"),
    labels=("mode", "condition", "seeds", "metric", "provenance"),
):
    """The scores of a sweep over heads.

    Attributes:
        mode: "hidden": the context is hidden from this head alone, whose worth is what is lost of
            the ceiling; "kept": from all others, and worth is what is gained on the floor.
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
        )
        self._check()

    def _gains(self) -> bool:
        return self.mode == "kept"


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
            heads=as_head_set(self.heads),
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
