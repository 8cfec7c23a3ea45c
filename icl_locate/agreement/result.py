"""Several methods' answers on one layer axis: witnesses, differences, a summary, a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.agreement.curve import MethodCurve
from icl_locate.agreement.kinds import KINDS, Found, How
from icl_locate.agreement.summary import summarise
from icl_locate.agreement.witness import MethodDifference, Witness
from icl_locate.checks.arguments import (
    LAST_SEED,
    check_choice,
    check_count,
    check_items,
    check_number,
    check_seed,
    refuse,
)
from icl_locate.checks.contents import check_names, check_recipe, check_table, made_of, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import MANY, checked, one_of
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.records.saved import Saved

if TYPE_CHECKING:
    import pandas as pd

_LABELS = tuple(
    one.name for one in fields(MethodCurve) if one.name not in ("statistics", "custom_metric")
)
_SHAPE = "shape"
_COLUMNS = [
    "method", "kind", "layer", "low", "high", "verdict", "effect", "effect_low", "effect_high",
    "metric", "n_items", "n_seeds", "seconds", "n_prompts",
]  # fmt: skip


_APART = ["method", "other", "layer", "low", "high", "verdict", "paired"]


@short_repr("model", "task", "n_layers", "methods", "left_out")
@dataclass(frozen=True)
class Agreement(
    Saved,
    form="icl_locate.Agreement/1",
    tensors=("numbers",),
    labels=(
        "n_layers", "measured", "left_out", "confidence", "n_resamples", "seed", "provenance",
    ),
):  # fmt: skip
    """What several methods say of one model and task; made by `triangulate`.

    A file holds the curves' statistics, so that layers and intervals can be computed again.

    Attributes:
        n_layers: the model's; the common axis goes from 0 to it.
        measured: of each method's curve all but its numbers.
        numbers: the curves' statistics, one behind the other.
        left_out: by method's name, why it was left out: the task does not serve it, where none was
            asked for by name, or it failed.
        confidence: of all intervals.
        n_resamples, seed: curves that are drawn, and the seed of their generator.
        provenance: model, task, versions, options; each curve has its own recipe, too.
        results: by method's name what it measured, such as a `SweepResult`; not saved.
        custom_metric: the metric itself if it is none of the package's; not saved.
        curves: what each method measured, in the order in which they ran.
    """

    n_layers: int
    measured: Sequence[Mapping[str, Any]]
    numbers: Float[Tensor, "number"]
    left_out: Mapping[str, str]
    confidence: float
    n_resamples: int
    seed: int
    provenance: Mapping[str, Any]
    results: Mapping[str, Any] = field(default_factory=dict)
    custom_metric: Metric | None = None
    curves: tuple[MethodCurve, ...] = field(init=False)

    @classmethod
    def of(cls, curves: Sequence[MethodCurve], **rest: Any) -> "Agreement":
        """From the methods' curves; other fields as they are."""
        told = [
            {name: _plain(getattr(curve, name)) for name in _LABELS}
            | {_SHAPE: list(curve.statistics.shape)}
            for curve in curves
        ]
        numbers = torch.cat([curve.statistics.double().flatten() for curve in curves])
        return cls(measured=told, numbers=numbers, **rest)

    def __post_init__(self) -> None:
        expected = "what Agreement.of told of each curve, at least one"
        told = check_items("measured", self.measured, expected, ordered=True, error=ResultError)
        for one in told:
            if not isinstance(one, Mapping) or not {*_LABELS, _SHAPE} <= {*one}:
                refuse("measured", self.measured, expected, ResultError)
        left_out = check_recipe(self.left_out)
        if not told or not all(isinstance(why, str) for why in left_out.values()):
            refuse("measured", self.measured, expected, ResultError)
        settle(
            self,
            n_layers=check_count("n_layers", self.n_layers, error=ResultError),
            measured=tuple(dict(one) for one in told),
            left_out=dict(left_out),
            confidence=check_number(
                "confidence", self.confidence, above=0, below=1, error=ResultError
            ),
            n_resamples=check_count("n_resamples", self.n_resamples, most=MANY, error=ResultError),
            seed=check_seed("seed", self.seed, error=ResultError),
            provenance=check_recipe(self.provenance),
        )
        sizes = [prod(_shape_of(one)) for one in self.measured]
        check_table("numbers", self.numbers, (sum(sizes),))
        settle(self, curves=self._curves(sizes), results=dict(self.__dict__.get("results", {})))
        check_names("methods", self.methods, distinct=True)
        for curve in self.curves:
            if curve.layers[-1] > self.n_layers:
                expected = f"those of a model of {self.n_layers} layers"
                refuse(f"layers of {curve.method!r}", curve.layers, expected, ResultError)

    def _curves(self, sizes: Sequence[int]) -> tuple[MethodCurve, ...]:
        tables, own = torch.split(self.numbers, list(sizes)), self.custom_metric
        return tuple(
            made_of(
                MethodCurve,
                {name: one[name] for name in _LABELS}
                | {
                    "notes": check_items("notes", one["notes"], "texts", error=ResultError),
                    "statistics": table.view(_shape_of(one)),
                    "custom_metric": own if own and own.name == one["metric"] else None,
                },
            )
            for one, table in zip(self.measured, tables, strict=True)
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of those that ran."""
        return tuple(curve.method for curve in self.curves)

    @cached_property
    def witnesses(self) -> tuple[Witness, ...]:
        """What each method says, in the order in which they ran.

        Raises:
            ResultError: if the metric is not known here.
        """
        return tuple(
            Witness.of(curve, found, self.confidence)
            for curve, found in zip(self.curves, self._found, strict=True)
        )

    @checked(ResultError)
    def __getitem__(self, method: str) -> Witness:
        """What one method says.

        Raises:
            ResultError: if it did not run.
        """
        place = self.methods.index(check_choice("method", method, self.methods, error=ResultError))
        return self.witnesses[place]

    @cached_property
    def differences(self) -> tuple[MethodDifference, ...]:
        """How far each two methods are apart, the first with each behind it."""
        pairs = combinations(zip(self.curves, self._found, strict=True), 2)
        return tuple(
            MethodDifference.of((a, b), (one, other), self.confidence)
            for (a, one), (b, other) in pairs
        )

    @property
    def summary(self) -> str:
        """In words: what each method says, which differ, and what each leaves open."""
        return summarise(self.witnesses, self.differences, self.n_layers, self.left_out, self._what)

    def __str__(self) -> str:
        return self.summary

    @checked(ResultError, rows=one_of("method", "difference"))
    def to_dataframe(self, rows: str = "method") -> "pd.DataFrame":
        """One row a method: layer with its interval, verdict, effect with its interval, cost.

        Columns: method, kind, layer, low, high, verdict, effect, effect_low, effect_high, metric,
        n_items, n_seeds, seconds, n_prompts. Of differences: method, other, layer, low, high,
        verdict, paired.

        Args:
            rows: "method"; or "difference": one row for each two methods.
        """
        import pandas as pd

        if rows == "method":
            frame = pd.DataFrame(map(_row_of, self.witnesses), columns=_COLUMNS)
        else:
            frame = pd.DataFrame(map(_row_between, self.differences), columns=_APART)
        return frame.astype(dict.fromkeys(("layer", "low", "high"), "Int64"))

    @cached_property
    def _found(self) -> tuple[Found, ...]:
        """What is in each curve: drawn from the same normals where items and seeds are the same."""
        items = list(dict.fromkeys(curve.items for curve in self.curves))
        seeds = list(dict.fromkeys(map(_drawn, self.curves)))
        found = []
        for curve in self.curves:
            own, rest = items.index(curve.items), seeds.index(_drawn(curve))
            drawn = [(self.seed + place) % (LAST_SEED + 1) for place in (own, rest)]
            how = How(self.confidence, self.n_resamples, *drawn)
            found.append(KINDS[curve.kind](curve, how))
        return tuple(found)

    @property
    def _what(self) -> str:
        """Task and model."""
        return f"{self.provenance.get('task')}, {self.provenance.get('model')}"


def _drawn(curve: MethodCurve) -> tuple[Any, ...]:
    """What is the same for methods whose items do the same under each seed."""
    return curve.items, curve.seeds, curve.draws


def _row_of(one: Witness) -> dict[str, Any]:
    row = {name: getattr(one, name, None) for name in _COLUMNS}
    row["low"], row["high"] = one.interval or (None, None)
    row["effect"], row["effect_low"], row["effect_high"] = one.effect
    return row


def _row_between(one: MethodDifference) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    values = (*one.methods, one.layer, low, high, one.verdict, one.paired)
    return dict(zip(_APART, values, strict=True))


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _shape_of(told: Mapping[str, Any]) -> tuple[int, ...]:
    """Of a curve's statistics."""
    expected = "four whole numbers"
    sizes = check_items(_SHAPE, told[_SHAPE], expected, error=ResultError)
    if len(sizes) != 4:
        refuse(_SHAPE, sizes, expected, ResultError)
    return tuple(check_count(_SHAPE, size, error=ResultError) for size in sizes)
