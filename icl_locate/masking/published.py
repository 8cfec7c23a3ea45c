"""Published figures, as curves to lay under one's own.

Read off the figures of Sia, Mueller and Duh, "Where does In-context Learning Happen in Large
Language Models" (NeurIPS 2024), English to French on FLORES, 5 shots, to about 1 BLEU. The paper
counts layers from 1, and its layer ``j`` is masked from ``j`` on; here layers count from 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class ReferenceCurve:
    """Some points of a published curve.

    Attributes:
        model, condition: what was measured.
        n_layers: of the model.
        points: start layer (from 0) -> score.
        ceiling: the score with nothing hidden.
        source: where it was read off.
    """

    model: str
    condition: str
    n_layers: int
    points: Mapping[int, float]
    ceiling: float
    source: str = "Sia et al., NeurIPS 2024, read off a figure to about 1 BLEU"


def _llama(condition: str, points: Mapping[int, float]) -> ReferenceCurve:
    from_zero = {layer - 1: score for layer, score in points.items()}
    return ReferenceCurve(
        "meta-llama/Llama-3.1-8B", condition, 32, MappingProxyType(from_zero), 40.9
    )


SIA2024_TRANSLATION: tuple[ReferenceCurve, ...] = (
    _llama("instructions+examples", {10: 1.0, 12: 11.0, 15: 10.0, 16: 40.0}),
    _llama("examples", {15: 12.0, 16: 35.5, 17: 40.0}),
    _llama(
        "examples, instructions kept",
        {8: 24.0, 10: 7.0, 12: 29.0, 14: 21.0, 15: 37.0, 16: 41.0, 32: 42.0},
    ),
    _llama("query", {16: 1.5, 17: 12.5, 20: 35.0, 27: 41.0}),
    _llama("everything", {16: 1.5, 17: 12.5, 20: 32.5, 27: 41.0}),
)
