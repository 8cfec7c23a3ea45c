"""How many heads pay much attention to some cells, and what attention spread evenly would make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.reprs import short_repr
from icl_locate.circuit.attended import N_DRAWS, THRESHOLD, Cells, thresholds
from icl_locate.circuit.inputs import CircuitSetting, Measure
from icl_locate.circuit.result import HeadMeasure
from icl_locate.prompts.tokens import Prompts


@short_repr("threshold")
@dataclass(frozen=True)
class Paid:
    """What heads pay to cells of each prompt; where cells are drawn, in each of several draws.

    Attributes:
        sums: of the cells' attention.
        even: the same of attention that is spread evenly over all that the row sees.
        threshold: above which a head counts in a prompt.
    """

    sums: Float[Tensor, "draw layer head batch"]
    even: Float[Tensor, "draw batch"]
    threshold: Float[Tensor, "batch"]

    @classmethod
    def of(
        cls,
        sums: Float[Tensor, "sum layer head batch"],
        cells: Cells,
        prompts: Prompts,
        chosen: slice,
        n_classes: int = 1,
    ) -> "Paid":
        """Of some of the sums that were measured."""
        return cls(sums[chosen], cells.even(prompts)[chosen], thresholds(prompts, n_classes))

    def counted(self) -> tuple[Float[Tensor, "layer head batch"], float]:
        """The share of draws in which each head counts, and of prompts if it looks at all alike."""
        each = (self.sums > self.threshold).double().mean(dim=0)
        return each, float((self.even > self.threshold).double().mean())

    def attention(self) -> tuple[Float[Tensor, "layer head batch"], float]:
        """The attention itself, mean over draws, and the mean if it is spread evenly."""
        return self.sums.double().mean(dim=0), float(self.even.double().mean())


def counting(name: str, compat: str | None) -> Measure:
    """The measure of a name."""
    return Measure(name, f"threshold:{THRESHOLD:g}/T|draws:{N_DRAWS}|compat:{compat}")


def head_measure(
    chosen: CircuitSetting,
    recipe: Mapping[str, Any],
    arms: Sequence[str],
    found: Sequence[Sequence[Paid]],
) -> HeadMeasure:
    """Each arm's counts, and behind them each arm's attention.

    Args:
        found: of each seed, each arm.
    """
    by_seed = [
        [*(paid.counted() for paid in seed), *(paid.attention() for paid in seed)] for seed in found
    ]
    values = torch.stack([torch.stack([each for each, _ in seed]) for seed in by_seed], dim=3)
    return HeadMeasure(
        arms=(*arms, *(f"attention, {arm}" for arm in arms)),
        layers=tuple(range(values.shape[1])),
        heads=tuple(range(values.shape[2])),
        seeds=chosen.setting.seeds,
        statistics=torch.stack([values, torch.ones_like(values)], dim=-1),
        scores=values.mean(dim=-1),
        chance=values.new_tensor([[even for _, even in seed] for seed in by_seed]).mean(dim=0),
        metric=chosen.setting.metric.name,
        provenance=recipe,
    )
