"""Simulated methods whose layers are known: ``python tests/benchmarks/agreement.py``.

Prints for where damage ends, and for differences of methods, how often the interval holds the
truth, how wide it is, and how far off the layer is. Takes about five minutes.
"""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulated_methods import KINDS, Methods, damages

from icl_locate.agreement.kinds import KINDS as FIND
from icl_locate.agreement.kinds import How
from icl_locate.masking.comparison import distance

SIZES = ((16, 1), (32, 2), (64, 3))
HOW = How(0.95, 400, 0, 0)


def main(replications: int) -> None:
    """Print both tables."""
    generator = np.random.default_rng(0)
    print("setting: truth, held, width, bias, exact, no damage")
    for n in (12, 32):
        for name, damage in damages(n).items():
            for metric in ("accuracy", "log_prob"):
                for n_items, n_seeds in SIZES:
                    one = Methods(damage, np.ones(n + 1), np.ones(n), n_items, n_seeds, metric)
                    print(n, name, metric, f"{n_items} x {n_seeds}:", end=" ")
                    print(*ends(one, replications, generator), flush=True)
    print("setting: the pair, held, width, bias")
    for n in (12, 32):
        for shape in ("aligned", "apart"):
            for metric in ("accuracy", "log_prob"):
                for n_items, n_seeds in SIZES:
                    one = Methods.of(n, shape, n_items=n_items, n_seeds=n_seeds, metric=metric)
                    for pair, found in differences(one, replications, generator).items():
                        print(
                            n, shape, metric, f"{n_items} x {n_seeds}:", *pair, *found, flush=True
                        )


def ends(one: Methods, replications: int, generator: np.random.Generator) -> list[object]:
    """Where damage ends: truth, held, width, bias, exact; and how often none was found."""
    (truth,) = one.truths["single_layer"]
    found = [FIND["drop"](one.curves(generator)["single_layer"], HOW) for _ in range(replications)]
    known = [each for each in found if each.layer is not None]
    nothing = round(1 - len(known) / replications, 2)
    if truth is None or not known:
        return [truth, "-", "-", "-", "-", nothing]
    low, high = np.array([each.interval for each in known]).T
    layers = np.array([each.layer for each in known])
    numbers = ((low <= truth) & (truth <= high)), high - low, layers - truth, layers == truth
    return [truth, *(round(float(np.mean(each)), 2) for each in numbers), nothing]


def differences(
    one: Methods, replications: int, generator: np.random.Generator
) -> dict[tuple[str, str], list[float]]:
    """For every pair of methods: held, width, bias of their difference."""
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for _ in range(replications):
        curves = one.curves(generator)
        found = {name: FIND[KINDS[name]](curve, HOW) for name, curve in curves.items()}
        for a, b in combinations(found, 2):
            first, second = found[a].draws, found[b].draws
            if first is not None and second is not None:
                layer, (low, high) = distance(first, second, HOW.confidence)
                true = [x - y for x in one.truths[a] for y in one.truths[b]]
                held = any(low <= each <= high for each in true)
                off = min((layer - each for each in true), key=abs)
                rows.setdefault((a, b), []).append((held, high - low, off))
    return {pair: np.mean(each, axis=0).round(2).tolist() for pair, each in rows.items()}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
