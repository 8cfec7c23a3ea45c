"""What a method measured over the layers, on an axis that all methods share."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import (
    check_choice,
    check_count,
    check_counts,
    check_flag,
    check_number,
    check_seeds,
    check_text,
    refuse,
)
from icl_locate.checks.contents import check_names, check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric, check_statistics, find_scorer
from icl_locate.studies.intervals import Spread

Kind = Literal["plateau", "peak", "drop", "rise"]
"""How a curve tells a layer: it stays up from there on; is highest there; ends there; or is up
there for the first time, whatever comes then."""


@short_repr("method", "kind", "layers", "seeds", "metric", "seconds")
@dataclass(frozen=True)
class MethodCurve:
    """A method's scores over the layers, beside a reference on the same items and seeds.

    Attributes:
        method: its name.
        kind: how its curve tells a layer.
        lowers: whether what is done at a layer takes something away: the reference is then the
            score with nothing done, and what counts is how far scores lie below it; else the
            reference is the score that something is added to.
        share: of a drop or a rise, the share of the largest effect above which a layer's counts;
            of a plateau, that of the way from floor to ceiling at which it is reached.
        question, cannot_show: what the method asks, and what it leaves open; a sentence each.
        places: what the layers are that the curve is drawn over.
        layers: them, on the common axis; see `icl_locate.agreement`.
        seeds: each drew other examples.
        items: the queries.
        statistics: each item's sufficient statistics of the metric; a cell a layer, and behind them
            the reference.
        metric: its name.
        seconds: that measuring took.
        n_prompts: prompts that the model answered, each under each intervention.
        notes: what a reader must know of how it was measured.
        provenance: where the numbers come from.
        draws: what a seed draws: methods of other draws share no seeds.
        custom_metric: the metric itself if it is none of the package's; not saved.
    """

    method: str
    kind: Kind
    lowers: bool
    share: float
    question: str
    cannot_show: str
    places: str
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    items: tuple[str, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    metric: str
    seconds: float
    n_prompts: int
    notes: tuple[str, ...]
    provenance: Mapping[str, Any]
    draws: str = "examples"
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        for name in ("method", "question", "cannot_show", "places", "metric", "draws"):
            check_text(name, getattr(self, name), error=ResultError)
        check_choice("kind", self.kind, get_args(Kind), error=ResultError)
        if self.notes and not all(isinstance(note, str) for note in self.notes):
            refuse("notes", self.notes, "a list of texts", ResultError)
        settle(
            self,
            lowers=check_flag("lowers", self.lowers, error=ResultError),
            share=check_number("share", self.share, above=0, most=1, error=ResultError),
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
            items=check_names("items", self.items),
            seconds=check_number("seconds", self.seconds, least=0, error=ResultError),
            n_prompts=check_count("n_prompts", self.n_prompts, least=0, error=ResultError),
            notes=tuple(self.notes),
            provenance=check_recipe(self.provenance),
        )
        cells = (len(self.layers) + 1, len(self.seeds), len(self.items), None)
        check_table("statistics", self.statistics, cells)
        check_statistics(self.statistics.numpy(), self.metric, self.custom_metric, self.provenance)

    @cached_property
    def cells(self) -> Spread:
        """How the scores scatter over items and seeds, those of the reference last.

        Raises:
            ResultError: if the metric is not known here.
        """
        metric = find_scorer(self.metric, self.custom_metric, self.provenance)
        return Spread.of(metric, self.statistics.numpy())

    @property
    def scores(self) -> Spread:
        """How the scores of the layers scatter."""
        return self.cells[: len(self.layers)]

    @property
    def effects(self) -> Spread:
        """What is done at each layer: how far its score lies below the reference, or above it."""
        n = len(self.layers)
        beside = self.cells[[n] * n]
        return beside - self.scores if self.lowers else self.scores - beside
