"""Simulated sweeps whose recognition layer is known: answers to items and seeds, with their noise.

An item has its difficulty and a seed its level; an answer is right with a probability that rises
with what the curve has recovered. Noise of one answer may go together over layers, as when layers
differ by little. Nothing here knows how layers are located: the truth is the definition, on the
curve that has no noise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit, logit, ndtr

import icl_locate as icl
from icl_locate.metrics import find_scorer, score_totals

THRESHOLD = 0.9
CHANCE = 0.05  # right without the context, as a share of what is right with it
LLAMA = [0, 5, 8, 10, 12, 14, 15, 16, 20, 32], [5, 10, 24, 7, 29, 21, 37, 41, 41.5, 42]
"""Places and BLEU of Llama-3.1-8B (Sia et al. 2024): falls and rises again on its way."""
BLEU_LENGTH = 2.7, 0.5  # of a target's logarithm: mean and standard deviation
MANY = 20_000


def step(m: np.ndarray, layer: int) -> np.ndarray:
    """Half of the way a layer before it."""
    return np.where(m >= layer, 1.0, np.where(m == layer - 1, 0.5, 0.0))


def dipping(levels: Mapping[int, float], rise: float = 0.5) -> Callable[..., np.ndarray]:
    """A step that falls again to some levels: at layers behind the middle; -1: the one but last."""

    def shape(m: np.ndarray, layer: int) -> np.ndarray:
        found = step(m, layer)
        found[layer - 1] = rise
        for place, level in levels.items():
            found[(place + len(m) // 2) if place >= 0 else place - 1] = level
        return found

    return shape


def plateau(levels: Callable[..., np.ndarray], rise: float = 0.5) -> Callable[..., np.ndarray]:
    """A step onto a plateau that is not all at 1; its last layer is."""

    def shape(m: np.ndarray, layer: int) -> np.ndarray:
        found = np.where(m >= layer, levels(m - m[-1]), np.where(m == layer - 1, rise, 0.0))
        found[-1] = 1.0
        return found

    return shape


SHAPES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "step": step,
    "sharp": lambda m, layer: (m >= layer).astype(float),
    "ramp": lambda m, layer: np.clip((m - layer + 8) / 8, 0, 1),
    "ramp past": lambda m, layer: np.clip((m - layer + 7.6) / 8, 0, 1),
    "creep": lambda m, layer: np.where(
        m < layer,
        np.clip(0.9 - 0.12 * (layer - 0.5 - m), 0, 1),
        1 - 0.06 * np.exp(-np.maximum(m - layer, 0) / 4),
    ),
    "slow": lambda m, layer: 1 - np.exp(-np.maximum(m - layer + 12, 0) / 4.9),
    "linear": lambda m, layer: m / m[-1],
    "Llama": lambda m, layer: np.interp(m, *LLAMA),
    "dip": dipping({4: 0.7}),
    "dip of 3": dipping({4: 0.7, 5: 0.7, 6: 0.7}),
    "shallow dip": dipping({4: 0.85}),
    "two dips": dipping({0: 0.7, 5: 0.65}),
    "wide dip": dipping(dict.fromkeys(range(1, 7), 0.75), rise=0.3),
    "dip at the end": dipping({-1: 0.7}),
    "overshoot": plateau(lambda left: np.clip(1 - 0.02 * left, 1, 1.1)),
    "at .93": plateau(lambda left: 0.93 + 0 * left),
    "last rise": plateau(lambda left: 0.82 + 0 * left, rise=0.4),
    "late": lambda m, layer: step(m, m[-1] - 1),
    "nothing": lambda m, layer: np.ones(len(m)),
}
"""Recovery over start layers ``m``, by where it rises."""


@dataclass(frozen=True)
class Simulated:
    """How a sweep's answers come about.

    Attributes:
        shape: one of `SHAPES`.
        n_layers, layer: of the model, and about where it rises.
        n_items, n_seeds: what is asked.
        ceiling: the share of right answers of a middling item with nothing hidden.
        correlation: of an answer's noise between one layer and the next; 1: one noise for all.
        seed_level: how seeds differ at all layers alike, in logits.
        seed_by_layer: how they differ at each layer, as a share of what is right.
        metric: "exact_match", or "bleu" on counts of n-grams.
    """

    shape: str = "step"
    n_layers: int = 32
    layer: int = 12
    n_items: int = 64
    n_seeds: int = 3
    ceiling: float = 0.7
    correlation: float = 0.9
    seed_level: float = 0.1
    seed_by_layer: float = 0.0
    metric: str = "exact_match"

    @property
    def recovery(self) -> np.ndarray:
        """The curve without noise: 0 at its floor, 1 with nothing hidden."""
        if self.metric != "bleu":
            return self._curve
        totals = self.statistics(1, MANY, n_items=MANY, n_seeds=4)[0].sum(axis=-2)
        curve = score_totals(find_scorer("bleu", None, {}), totals).mean(axis=-1)
        return (curve - curve[0]) / (curve[-1] - curve[0])

    @property
    def truth(self) -> int:
        """The first layer from which recovery stays at the threshold: by definition."""
        return recognised(self.recovery)

    @property
    def effect(self) -> float:
        """The mean score with nothing hidden minus that with all hidden, by very many items."""
        seeds = np.random.default_rng(11)
        ends = [self._chances(seeds, 200)[:, [0, -1]].mean(axis=(0, 2, 3)) for _ in range(10)]
        floor, ceiling = np.mean(ends, axis=0)
        return float(ceiling - floor)

    def statistics(
        self, replications: int, seed: int, *, n_items: int = 0, n_seeds: int = 0
    ) -> np.ndarray:
        """Statistics of each answer, ``[replication, layer, seed, item, stat]``."""
        generator = np.random.default_rng(seed)
        sizes = replications, n_items or self.n_items, n_seeds or self.n_seeds
        chances = self._chances(generator, *sizes)
        noise = self._noise(generator, chances.shape)
        if self.metric == "bleu":
            return _bleu_counts(generator, chances, noise)
        right = (ndtr(noise) < chances).astype(float)
        return np.stack([right, np.ones_like(right)], axis=-1)

    def result(self, replications: int = 1, seed: int = 0) -> icl.SweepResult:
        """The replications as the conditions of one sweep."""
        return result_of(self.statistics(replications, seed), self.metric)

    @property
    def _curve(self) -> np.ndarray:
        curve = SHAPES[self.shape](np.arange(self.n_layers + 1), self.layer)
        rise = curve[-1] - curve[0]
        return (curve - curve[0]) / rise if rise else curve

    def _chances(
        self, generator: np.random.Generator, replications: int, n_items: int = 0, n_seeds: int = 0
    ) -> np.ndarray:
        """Of a right answer, ``[replication, layer, seed, item]``."""
        n_items, n_seeds = n_items or self.n_items, n_seeds or self.n_seeds
        items = generator.normal(0, 1.3, (replications, 1, 1, n_items))
        seeds = generator.normal(0, self.seed_level, (replications, 1, n_seeds, 1))
        able = expit(1.3 * logit(self.ceiling) + items + seeds)
        curve = self._curve
        recovered = (
            curve if self.shape == "nothing" else (curve - curve[0]) / (curve[-1] - curve[0])
        )
        chances = able * (CHANCE + (1 - CHANCE) * recovered[:, None, None])
        if self.seed_by_layer:
            shape = replications, len(recovered), n_seeds, 1
            chances = chances * (1 + self.seed_by_layer * generator.normal(size=shape))
        return np.clip(chances, 0, 1)

    def _noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal; each layer's goes with that of the layer before."""
        if self.correlation == 1:
            return np.broadcast_to(generator.standard_normal((shape[0], 1, *shape[2:])), shape)
        noise = generator.standard_normal(shape)
        own = np.sqrt(1 - self.correlation**2)
        for layer in range(1, shape[1]):
            noise[:, layer] = self.correlation * noise[:, layer - 1] + own * noise[:, layer]
        return noise


def recognised(recovery: np.ndarray) -> int:
    """The first layer from which every layer is at the threshold or above."""
    reached = recovery >= THRESHOLD - 1e-9
    return next(layer for layer in range(len(reached)) if reached[layer:].all())


def result_of(statistics: np.ndarray, metric: str = "exact_match") -> icl.SweepResult:
    """A result with these statistics, ``[condition, layer, seed, item, stat]``."""
    n_conditions, n_layers, n_seeds, n_items, _ = statistics.shape
    scorer = find_scorer(metric, None, {})
    items = (
        statistics[..., 0] / statistics[..., 1] if metric == "exact_match" else statistics[..., 2]
    )
    return icl.SweepResult(
        conditions=tuple(f"c{i}" for i in range(n_conditions)),
        layers=tuple(range(n_layers)),
        seeds=tuple(range(n_seeds)),
        statistics=torch.from_numpy(statistics),
        item_scores=torch.from_numpy(items),
        scores=torch.from_numpy(score_totals(scorer, statistics.sum(axis=-2))),
        texts=[],
        sources=("s",) * n_items,
        targets=("t",) * n_items,
        metric=metric,
        provenance={},
    )


def _bleu_counts(
    generator: np.random.Generator, chances: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """The counts of `CorpusBleu`, of answers whose words are right with these chances or so."""
    replications, _, n_seeds, n_items = chances.shape
    wanted = np.round(generator.lognormal(*BLEU_LENGTH, (replications, 1, 1, n_items))).clip(4)
    longer = 0.15 * generator.standard_normal((replications, 1, n_seeds, n_items))
    said = np.broadcast_to(np.round(wanted * np.exp(longer)).clip(4), chances.shape)
    right = expit(logit(chances.clip(1e-6, 1 - 1e-6)) + 0.75 * noise)
    orders = range(4)
    matched = [np.round((said - k) * right ** (1 + 0.6 * k)) for k in orders]
    wanted = np.broadcast_to(wanted, said.shape)
    return np.stack([said, wanted, *matched, *[said - k for k in orders]], axis=-1)
