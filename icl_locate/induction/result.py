"""What an ablation study found: scores with and without some heads, and how they compare."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.arguments import check_counts, check_seeds
from icl_locate.checks.contents import settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.induction.arms import Arm, Comparison, as_arms
from icl_locate.interventions.ablation import HeadReference
from icl_locate.metrics import Metric, score_totals
from icl_locate.studies.intervals import Spread
from icl_locate.studies.result import Measured, rescored

if TYPE_CHECKING:
    import pandas as pd


@short_repr("model", "task", "metric", "arms", "shots", "seeds", "scores")
@dataclass(frozen=True)
class AblationResult(
    Measured,
    axes={"arm": "arms", "shot": "shots", "seed": "seeds"},
    form="icl_locate.AblationResult/2",
    former="icl_locate.AblationResult/1",
    tensors=("statistics", "scores"),
    labels=("arms", "shots", "seeds", "metric", "provenance"),
):
    """The scores of an ablation study, and its recipe.

    Attributes:
        arms, shots, seeds: the axes' labels; the first arm is the whole model.
        statistics: each item's sufficient statistics of the metric; they add up over items.
        scores: the metric over all items.
        metric: the metric's name; its signature stands in ``provenance``.
        provenance: model, task, prompts' hash, versions, options.
        custom_metric: the metric itself if it is none of the package's; not saved.
        reference: what stood in for the heads' outputs, to be saved by itself and used again.
    """

    arms: tuple[Arm, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "arm shot seed item stat"]
    scores: Float[Tensor, "arm shot seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None
    reference: HeadReference | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            arms=as_arms(self.arms),
            shots=check_counts("shots", self.shots, least=0, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
        )
        self._check()

    @checked(ResultError)
    def compare(
        self, *, confidence: float = 0.95, n_resamples: int = 1000, seed: int = 0
    ) -> list[Comparison]:
        """Set each selection against its random controls and the whole model.

        Args:
            confidence: of the intervals, in (0, 1).
            n_resamples: of the permutation test.
            seed: of its own generator.

        Raises:
            ResultError: if an argument is out of range, or the metric is not known here.
        """
        metric, statistics = self.scorer(), self.statistics.numpy()
        spread = self.spread()
        means = spread.mean
        single = np.stack([means, *spread.interval(confidence)], axis=-1)
        found = []
        for (place, arm), (i, n_shots) in product(enumerate(self.arms), enumerate(self.shots)):
            if arm.kind != "induction":
                continue
            controls, p_value, rank_p = self._controls_of(arm), math.nan, math.nan
            random = difference = np.full(3, np.nan)
            if controls:
                random, difference = _against(spread[[place, *controls], i], confidence)
                arms = statistics[place, i], statistics[controls, i]
                p_value = permutation_p_value(metric, *arms, n_resamples, seed)
                as_bad = int((means[controls, i] <= means[place, i] + 1e-12).sum())
                rank_p = (1 + as_bad) / (1 + len(controls))
            found.append(
                Comparison(
                    intervention=arm.intervention,
                    fraction=arm.fraction,
                    fractions=arm.fractions,
                    n_shots=n_shots,
                    full=_three(single[0, i]),
                    induction=_three(single[place, i]),
                    random=_three(random),
                    difference=_three(difference),
                    p_value=p_value,
                    rank_p=rank_p,
                )
            )
        return found

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a run: intervention, kind, fraction, control, n_heads, shots, seed, score.

        ``share`` says all fractions that choose the same heads, such as "1 %, 3 %".
        """
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "intervention": arm.intervention,
                    "kind": arm.kind,
                    "fraction": arm.fraction,
                    "share": arm.share,
                    "control": arm.control,
                    "n_heads": len(arm.heads),
                    "shots": n_shots,
                    "seed": seed,
                    "score": float(self.scores[i, j, k]),
                }
                for i, arm in enumerate(self.arms)
                for j, n_shots in enumerate(self.shots)
                for k, seed in enumerate(self.seeds)
            ]
        )

    def _rescored(self, statistics: Tensor, metric: Metric) -> dict[str, Any]:
        return dict(rescored(statistics, metric))

    def _names(self, axis: str) -> list[Any]:
        return [arm.label for arm in self.arms] if axis == "arm" else super()._names(axis)

    def _controls_of(self, arm: Arm) -> list[int]:
        wanted = arm.intervention, "random", arm.fraction
        return [
            i
            for i, other in enumerate(self.arms)
            if (other.intervention, other.kind, other.fraction) == wanted
        ]


def _against(arms: Spread, confidence: float) -> Float[ndarray, "what value"]:
    """The controls' mean, and that minus the selection, each with its interval.

    Args:
        arms: the selection, and behind it its controls.
    """
    n = len(arms.mean) - 1
    found = arms.combine(np.array([[0.0, *[1 / n] * n], [-1.0, *[1 / n] * n]]))
    variance = found.variance + arms[1:].cell_variance
    return np.stack([found.mean, *variance.interval(found.mean, confidence)], axis=-1)


def _three(values: Float[ndarray, "value"]) -> tuple[float, float, float]:
    mean, low, high = values.tolist()
    return mean, low, high


def permutation_p_value(
    metric: Metric,
    chosen: Float[ndarray, "seed item stat"],
    controls: Float[ndarray, "control seed item stat"],
    n_permutations: int,
    seed: int,
) -> float:
    """How often swapping two arms item by item makes their scores differ as much as they do.

    Items are swapped as a whole, in all seeds and with every control; the difference is the mean
    over controls and seeds. The observed arrangement counts as one of the permutations.
    """
    n_items = chosen.shape[1]
    swapped = np.random.default_rng(seed).integers(0, 2, (n_permutations, n_items)).astype(float)
    swapped = np.concatenate([np.zeros((1, n_items)), swapped])
    gaps = controls - chosen
    moved = np.einsum("pi,csik->pcsk", swapped, gaps)
    left = score_totals(metric, chosen.sum(axis=1) + moved)
    right = score_totals(metric, controls.sum(axis=2) - moved)
    differences = np.abs((right - left).mean(axis=(1, 2)))
    return float(np.mean(differences >= differences[0] - 1e-12))
