"""Simulated answers of several methods whose layers are known, on the same items and seeds.

An item has its difficulty (or its scale), which every method's answers share. Nothing here knows
how layers are located: the truth is the definition, on curves that have no noise.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit, logit

from icl_locate.agreement import MethodCurve

SHARES = {"masking": 0.9, "single_layer": 0.1, "task_vector": 1.0, "function_vector": 0.5}
KINDS = {
    "masking": "plateau", "single_layer": "drop", "task_vector": "peak", "function_vector": "drop",
}  # fmt: skip


def put(n, levels):
    found = np.zeros(n)
    for place, level in levels.items():
        found[place] = level
    return found


def damages(n):
    """What reading the examples at each layer alone is worth."""
    last = round(0.4 * n)
    block = np.zeros(n)
    block[last - n // 6 : last + 1] = np.linspace(0.4, 1, n // 6 + 1)
    falling = np.zeros(n)
    falling[1 : last + 1] = 1 - 0.85 * np.arange(last) / max(last - 1, 1)
    return {
        "one layer": put(n, {last: 1.0}),
        "block": block,
        "two sites": put(n, {last - 2: 1.0, last + n // 4: 0.5}),
        "a weak site": put(n, {last - 2: 1.0, last + n // 4: 0.2}),
        "a little everywhere": np.maximum(put(n, {last: 1.0, last - 1: 0.6}), 0.03),
        "falling": falling,
        "to the end": np.linspace(0.3, 1, n),
        "none": np.zeros(n),
    }


@dataclass(frozen=True)
class Methods:
    """Curves of methods without noise, and what they are measured on.

    Attributes:
        damage: of each layer alone, as a share of what the context is worth.
        recovered: with the examples hidden from a layer on; one more than there are layers.
        gain: of a state put in, or a vector added, after each layer.
        metric: "accuracy", or "log_prob".
    """

    damage: np.ndarray
    recovered: np.ndarray
    gain: np.ndarray
    n_items: int = 32
    n_seeds: int = 2
    metric: str = "accuracy"

    @classmethod
    def of(cls, n, shape="aligned", **rest):
        """Of a model of so many layers: the methods agree, or not all of them."""
        layer, m = round(0.4 * n), np.arange(n)
        recovered = np.clip((np.arange(n + 1) - layer + 3) / 3, 0, 1)
        if shape == "aligned":
            damage = put(n, {layer - 3: 1.0, layer - 2: 0.8, layer - 1: 0.4})
            gain = np.exp(-(((m - layer) / (0.12 * n)) ** 2))
        else:
            damage = put(n, {layer - 3: 1.0, layer + 3: 0.4})
            gain = np.where(m < layer, 1.0, np.where(m < layer + 2, 0.6, 0))
        return cls(damage, recovered, gain, **rest)

    @property
    def truths(self):
        """The layers at which each method's curve says what it says; several where they tie."""
        ends = {}
        for name, curve in (("single_layer", self.damage), ("function_vector", self.gain)):
            counts = np.flatnonzero(curve > SHARES[name] * curve.max() + 1e-12)
            ends[name] = [int(counts[-1]) + 1 if curve.max() > 0 else None]
        first = 1 + int(np.flatnonzero(self.recovered < SHARES["masking"]).max(initial=-1))
        best = np.flatnonzero(self.gain == self.gain.max()) + 1
        return ends | {"masking": [first], "task_vector": best.tolist()}

    def curves(self, generator):
        """One replication: what each method measures."""
        base, recovered, damaged, gained, floor = getattr(self, f"_{self.metric}")(generator)
        n = len(self.damage)
        return {
            "masking": self._curve("masking", range(n + 1), [*recovered, base]),
            "single_layer": self._curve("single_layer", range(n), [*damaged, base]),
            "task_vector": self._curve("task_vector", range(1, n + 1), [*gained, floor]),
            "function_vector": self._curve("function_vector", range(n), [*gained, floor]),
        }

    def _accuracy(self, generator):
        """Right or wrong; noise of one answer goes partly together over layers."""
        n, cell = len(self.damage), (self.n_seeds, self.n_items)
        item = generator.normal(0, 1.3, self.n_items) + generator.normal(0, 0.2, (cell[0], 1))
        able, own = expit(1.3 * logit(0.8) + item), generator.random(cell)
        base = own < able

        def kept(share):
            """Of those that are right; one in twenty answers is another one by chance."""
            share = share[:, None, None]
            again, mixed = (generator.random((len(share), *cell)) for _ in range(2))
            mixed = np.where(generator.random(again.shape) < 0.8, generator.random(cell), mixed)
            other = generator.random(again.shape) < able * share
            return np.where(again < 0.05, other, base & (mixed < share))

        recovered = kept(self.recovered)
        recovered[-1] = base
        damaged = kept(1 - 0.8 * self.damage)
        gained = generator.random((n, *cell)) < able * (0.05 + 0.75 * self.gain[:, None, None])
        return base, recovered, damaged, gained, generator.random(cell) < 0.05

    def _log_prob(self, generator):
        """Numbers: an item loses or gains by its own scale."""
        cell = (self.n_seeds, self.n_items)
        scale = np.exp(generator.normal(0, 0.5, self.n_items) + generator.normal(0, 0.3, cell))
        base = -np.exp(generator.normal(-1, 0.7, cell))

        def moved(start, amount, share):
            shape = len(share), *cell
            size = amount * share[:, None, None] * scale * np.exp(generator.normal(0, 0.3, shape))
            return start + size + generator.normal(0, 0.2, shape)

        recovered = moved(base, -4, 1 - self.recovered)
        recovered[-1] = base
        floor = base - 4 * scale
        return base, recovered, moved(base, -3, self.damage), moved(floor, 3, self.gain), floor

    def _curve(self, name, layers, values):
        table = np.asarray(values, dtype=float)
        return MethodCurve(
            method=name, kind=KINDS[name], lowers=name in ("masking", "single_layer"),
            share=SHARES[name], question="?", cannot_show="-", places="layer", layers=tuple(layers),
            seeds=tuple(range(self.n_seeds)), items=tuple(f"i{i}" for i in range(self.n_items)),
            statistics=torch.from_numpy(np.stack([table, np.ones_like(table)], axis=-1)),
            metric="exact_match", seconds=0.0, n_prompts=0, notes=(), provenance={},
        )  # fmt: skip
