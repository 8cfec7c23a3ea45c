"""What each layer's reading of the context is worth: the score lost when it alone is masked."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.result import SweepResult


@short_repr("condition", "ceiling", "critical", "loss")
@dataclass(frozen=True)
class LayerImportance:
    """One condition's losses over the layers (Sia et al., arXiv 2403.04510v1, section 4).

    Attributes:
        condition: the condition.
        layers: the layers that were masked, each with (in a window) those behind it.
        ceiling: the mean score over seeds with nothing hidden.
        loss: the ceiling minus the score with layer ``l`` masked; below 0 if masking it helps.
        interval: of the loss, over items and seeds; row 0 low, row 1 high; NaN for one item.
        confidence: of the interval.
    """

    condition: str
    layers: tuple[int, ...]
    ceiling: float
    loss: Float[Tensor, "layer"]
    interval: Float[Tensor, "bound layer"]
    confidence: float

    @property
    def critical(self) -> tuple[int, ...]:
        """The layers whose loss is above 0 beyond doubt, the greatest first."""
        sure = [i for i in range(len(self.loss)) if self.interval[0, i] > 0]
        return tuple(self.layers[i] for i in sorted(sure, key=lambda i: -float(self.loss[i])))


@checked(ResultError)
def layer_importance(result: SweepResult, *, confidence: float = 0.95) -> list[LayerImportance]:
    """Each condition's losses, from a sweep with ``scope="only"`` or a window.

    Intervals are Student's, of the difference from the ceiling on the same items and seeds.

    Raises:
        ResultError: if the sweep masked from a layer on or no layer, or the confidence is out of
            range.
    """
    scope = result.provenance.get("scope", "from")
    if scope == "from":
        raise ResultError(
            "this sweep masked from each layer on: for one layer's importance sweep with "
            "scope='only', or with a window such as scope='window:3'"
        )
    n_layers = len(result.layers) - 1
    if not n_layers:
        refuse("layers", result.layers, "a layer before the last, which hides nothing", ResultError)
    ceiling = np.repeat(np.eye(n_layers + 1)[-1:], n_layers, axis=0)
    lost = result.spread().combine(ceiling - np.eye(n_layers + 1)[:-1])
    intervals = lost.interval(confidence).swapaxes(0, 1)
    curves = result.scores.numpy().mean(axis=-1)
    return [
        LayerImportance(
            condition=condition,
            layers=result.layers[:-1],
            ceiling=float(curve[-1]),
            loss=torch.from_numpy(curve[-1] - curve[:-1]),
            interval=torch.from_numpy(interval),
            confidence=confidence,
        )
        for condition, curve, interval in zip(result.conditions, curves, intervals, strict=True)
    ]
