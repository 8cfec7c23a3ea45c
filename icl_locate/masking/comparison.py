"""Is a task recognised later in one sweep than in another, or under one condition than another?

Two intervals that overlap do not say: what both curves were measured on moves them together. So
both are drawn anew, around their smoothed selves, as paired as they were measured; each draw is
located, and the difference of the layers is taken draw by draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked, number
from icl_locate.errors import ResultError
from icl_locate.masking.curve import Curve
from icl_locate.masking.location import Location, locate
from icl_locate.masking.pairing import Pairing, check_alike, choose_pairs, told_apart
from icl_locate.masking.result import SweepResult
from icl_locate.studies.draws import shortest
from icl_locate.studies.intervals import Paired, difference


@short_repr("names", "verdict", "layer", "interval", "depth", "effect", "paired", "scores")
@dataclass(frozen=True)
class Difference:
    """How one curve differs from another: all differences are the first minus the second.

    Attributes:
        names: of the two sides: conditions, or a condition with what tells the sweeps apart.
        locations: what `locate` says of each.
        paired: what was the same for both: "items and seeds", "items" or "nothing".
        layer: how many layers later the first is recognised; below 0 if earlier; ``None`` if one of
            them has no recognition layer.
        interval: its confidence interval, both ends included, over all layers at which the tasks
            may be recognised.
        depth, depth_interval: the same in shares of the models' depths, from -1 to 1.
        scores: the difference of the curves at each start layer, mean over seeds; ``None`` if the
            start layers are not the same.
        score_interval: its pointwise confidence interval; row 0 low, row 1 high.
        effect: the difference of the effects (ceiling minus floor) with its interval (low, high).
        confidence: of all intervals, such as 0.95.
        metric: the name of both sweeps' metric.
        recipes: where the numbers of each side come from.
    """

    names: tuple[str, str]
    locations: tuple[Location, Location]
    paired: Paired
    layer: int | None
    interval: tuple[int, int] | None
    depth: float | None
    depth_interval: tuple[float, float] | None
    scores: Float[Tensor, "layer"] | None
    score_interval: Float[Tensor, "bound layer"] | None
    effect: tuple[float, float, float]
    confidence: float
    metric: str
    recipes: tuple[Mapping[str, Any], Mapping[str, Any]]

    @property
    def n_layers(self) -> tuple[int, int]:
        """Of the two models."""
        first, second = self.locations
        return first.layers[-1], second.layers[-1]

    @property
    def verdict(self) -> Literal["later", "earlier", "no difference shown", "not comparable"]:
        """Whether the first is recognised at a later layer than the second, beyond noise."""
        if self.interval is None:
            return "not comparable"
        low, high = self.interval
        return "later" if low > 0 else "earlier" if high < 0 else "no difference shown"

    def __str__(self) -> str:
        first, second = self.locations
        against = f"{self.names[0]} against {self.names[1]}"
        if self.layer is None or self.interval is None:
            sides = ("the first", first), ("the second", second)
            why = "; ".join(f"{side}: {each.verdict}" for side, each in sides if not each.layer)
            return f"{against}: {self.verdict} ({why})"
        unit = "layer" if abs(self.layer) == 1 else "layers"
        said = f"{_say(self.layer, self.interval, unit)} ({first.place} against {second.place})"
        if self.n_layers[0] != self.n_layers[1] and self.depth is not None and self.depth_interval:
            said += f", {_say(self.depth, self.depth_interval, 'of the depth')}"
        shared = "other items" if self.paired == "nothing" else f"same {self.paired}"
        return f"{against}: {said}, {shared}"


@checked(ResultError, threshold=number(above=0, most=1))
def compare(
    result_a: SweepResult,
    result_b: SweepResult | None = None,
    *,
    conditions: str | Sequence[str] | None = None,
    threshold: float = 0.9,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> list[Difference]:
    """Set two sweeps against each other, condition by condition, or the conditions of one sweep.

    Items are shared if sources and targets are the same, in whatever order; if only some of them
    are, none is taken to be. Seeds draw the same examples if they are the same, and the task is.
    What is shared makes intervals narrower as far as it moves both curves alike. Those of layers
    are made of draws, as in `locate`; those of scores and effects are Student's.

    Args:
        result_a: the first sweep; differences are its layers and scores minus the other's.
        result_b: the second; ``None`` compares the conditions of the first with one another.
        conditions: of two sweeps, those to compare; ``None``: all that both have. Of one sweep, two
            or more, each with each behind it; ``None``: all.
        threshold: the recovery that counts as recovered, in (0, 1].
        confidence: of the intervals, in (0, 1).
        n_resamples: how many curves are drawn.
        seed: of their own generators.

    Raises:
        ResultError: if an argument is out of range, there is nothing to compare, the sweeps did not
            mask from each layer on, their metrics differ or are not known here, or one has a single
            item.
    """
    how: dict[str, Any] = {
        "threshold": threshold, "confidence": confidence, "n_resamples": n_resamples, "seed": seed
    }  # fmt: skip
    other = result_a if result_b is None else result_b
    pairs = choose_pairs(result_a, result_b, conditions)
    check_alike(result_a, other)
    pairing = Pairing.of(result_a, other)
    first = _sides(result_a, how)
    second = first if result_b is None else _sides(other, how, pairing)
    ends = ("", "") if result_b is None else told_apart(result_a, other)
    return [
        Difference(
            names=(f"{a}{ends[0]}", f"{b}{ends[1]}"),
            locations=(first[a].location, second[b].location),
            paired=pairing.shared,
            **_layers(first[a], second[b]),
            **_scores(first[a], second[b], pairing.shared),
            confidence=confidence,
            metric=result_a.metric,
            recipes=(result_a.provenance, other.provenance),
        )
        for a, b in pairs
    ]


@dataclass(frozen=True)
class _Side:
    """One of the two curves, in the order of items and seeds that the other has.

    Attributes:
        location: what is known of it alone.
        curve: draws what the other shares with the same seed.
        rest_seed: of the draws of items by seed.
    """

    location: Location
    curve: Curve
    rest_seed: int

    @cached_property
    def layers(self) -> Int[ndarray, "bound draw"] | None:
        """From which layer to which it may rise, by draw, and measured; ``None`` if it does not."""
        rise = self.curve.rise()
        return None if rise is None else self.curve.again(rise, self.rest_seed)


def _sides(
    result: SweepResult, how: Mapping[str, Any], pairing: Pairing | None = None
) -> dict[str, _Side]:
    """Each condition's curve; of the second sweep, as it is paired with the first."""
    found, spread = locate(result, **how), result.spread()
    seed = rest_seed = how["seed"]
    if pairing is not None:
        spread = pairing.arranged(spread)
        seed += pairing.shared == "nothing"  # what is not shared is drawn apart
        rest_seed += pairing.shared != "items and seeds"
    drawn = result.layers, how["threshold"], how["confidence"], how["n_resamples"], seed
    return {
        location.condition: _Side(location, Curve(spread[i], *drawn), rest_seed)
        for i, location in enumerate(found)
    }


def _layers(a: _Side, b: _Side) -> dict[str, Any]:
    """The fields of a difference of layers."""
    names = "layer", "interval", "depth", "depth_interval"
    if a.layers is None or b.layers is None:
        return dict.fromkeys(names)
    confidence = a.curve.confidence
    layer, interval = distance(a.layers, b.layers, confidence)
    depths = a.location.layers[-1], b.location.layers[-1]
    unit = lcm(*depths)  # in which both models' layers are whole numbers
    far, (low, high) = distance(
        unit // depths[0] * a.layers, unit // depths[1] * b.layers, confidence
    )
    return dict(zip(names, (layer, interval, far / unit, (low / unit, high / unit)), strict=True))


def distance(
    a: Int[ndarray, "bound draw"], b: Int[ndarray, "bound draw"], confidence: float
) -> tuple[int, tuple[int, int]]:
    """How far apart, with the shortest interval of the draws and all that they leave open."""
    apart = a[1] - b[1]
    low, high = shortest(apart, int(apart[-1]), confidence)
    held = (low <= apart) & (apart <= high)
    return int(apart[-1]), (int((a[0] - b[1])[held].min()), int((a[1] - b[0])[held].max()))


def _scores(a: _Side, b: _Side, paired: Paired) -> dict[str, Any]:
    """The fields of a difference of scores."""
    confidence, same = a.curve.confidence, a.location.layers == b.location.layers
    # all cells together tell more of few seeds; but only the first, the effect, is in any sweep
    one, other = (each.curve.worth[: None if same else 1] for each in (a, b))
    worth = one.mean - other.mean
    low_high = difference(one, other, paired).interval(worth, confidence)
    found: dict[str, Any] = {"scores": None, "score_interval": None}
    if same:
        scores = a.curve.scores - b.curve.scores
        variance = difference(a.curve.spread, b.curve.spread, paired)
        found["scores"] = torch.from_numpy(scores)
        found["score_interval"] = torch.from_numpy(variance.interval(scores, confidence))
    return {**found, "effect": (float(worth[0]), *map(float, low_high[:, 0]))}


def _say(value: int | float, interval: tuple[int, int] | tuple[float, float], unit: str) -> str:
    """A difference in words, with its interval."""
    low, high = interval
    if low <= 0 <= high:
        return f"no difference shown: {value:.3g} {unit} [{low:.3g}, {high:.3g}]"
    word, sign = ("later", 1) if low > 0 else ("earlier", -1)
    low, high = sorted((sign * low, sign * high))
    return f"{sign * value:.3g} {unit} {word} [{low:.3g}, {high:.3g}]"
