"""Layers and differences of simulated methods, whose truth is known: how often, and how surely.

``tests/benchmarks/agreement.py`` has more settings and more replications.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from simulated_methods import KINDS, Methods, damages, put

from icl_locate.agreement import MethodCurve
from icl_locate.agreement.drop import Drop
from icl_locate.agreement.kinds import KINDS as FIND
from icl_locate.agreement.kinds import How
from icl_locate.masking.comparison import distance
from icl_locate.studies import Spread

HOW = How(0.95, 200, 0, 0)
REPLICATIONS = 40


def of(values, share=0.1):
    """A drop of effects [layer, seed, item]."""
    return Drop(Spread.of_means(np.asarray(values, dtype=float)), share, 0.95, 300, 0, 0)


def exactly(damage, n_items=8):
    """The same effect on every item: no noise."""
    return of(np.tile(np.asarray(damage)[:, None, None], (1, 1, n_items)))


@pytest.mark.parametrize(
    ("damage", "end"),
    [
        ([0, 1, 0, 0], 2),
        ([1, 0, 0, 0], 1),
        ([0, 0, 0, 1], 4),
        ([0.5, 1, 0, 0.5, 0, 0], 4),
        ([0, 1, 0.09, 0.09, 0.09], 2),
        ([0, 1, 0.11, 0, 0], 3),
        ([-1, -1, 1, -1], 3),
    ],
)
def test_without_noise_it_is_the_definition(damage, end):
    drop = exactly(damage)
    assert drop.there and drop.end == end and drop.interval == (end, end)
    assert (drop.again() == end).all()


def test_nothing_is_found_where_nothing_is_done():
    assert not exactly([0, 0, 0]).there and not exactly([-1, -2, -1]).there


def test_one_item_has_an_end_without_an_interval():
    drop = exactly([0, 1, 0, 0], n_items=1)
    assert drop.there and drop.end == 2 and drop.interval is None


@pytest.mark.parametrize(
    ("shape", "n", "metric", "coverage", "width", "bias"),
    [
        ("one layer", 12, "accuracy", 0.95, 3.0, 0.1),
        ("block", 32, "log_prob", 0.95, 1.5, 0.1),
        ("two sites", 12, "log_prob", 0.95, 1.5, 0.1),
        ("two sites", 32, "accuracy", 0.95, 12.0, 3.0),
        ("a weak site", 12, "accuracy", 0.9, 6.0, 4.0),
        ("a little everywhere", 32, "log_prob", 0.95, 2.0, 0.1),
        ("falling", 12, "log_prob", 0.95, 2.0, 0.3),
        ("to the end", 12, "accuracy", 0.95, 0.5, 0.1),
    ],
)
def test_the_interval_holds_where_damage_ends(shape, n, metric, coverage, width, bias):
    damage = damages(n)[shape]
    simulated = Methods(damage, np.ones(n + 1), np.ones(n), metric=metric)
    (truth,) = simulated.truths["single_layer"]
    generator = np.random.default_rng(0)
    found = [
        FIND["drop"](simulated.curves(generator)["single_layer"], HOW) for _ in range(REPLICATIONS)
    ]
    low, high = np.array([one.interval for one in found]).T
    assert ((low <= truth) & (truth <= high)).mean() >= coverage
    assert (high - low).mean() <= width
    assert abs(np.mean([one.layer - truth for one in found])) <= bias


@pytest.mark.parametrize(
    ("gain", "first"),
    [([0, 0, 1, 1, 1], 2), ([0, 0.5, 0.95, 1, 0.2], 2), ([1, 1, 1, 1, 1], 0), ([0, 0, 0, 0, 1], 4)],
)
def test_a_rise_is_where_it_is_up_first_whatever_comes_then(gain, first):
    found = FIND["rise"](rising(np.tile(np.array(gain, float)[:, None, None], (1, 1, 6))), HOW)
    assert (found.layer, found.interval, found.verdict) == (first, (first, first), "reached")
    assert (found.draws == first).all()


def rising(values):
    """A curve of gains [layer, seed, item] on a reference of 0."""
    table = np.concatenate([values, np.zeros_like(values[:1])])
    return MethodCurve(
        method="probe", kind="rise", lowers=False, share=0.9, question="where?",
        cannot_show="why", places="layer", layers=tuple(range(len(values))),
        seeds=tuple(range(values.shape[1])), items=tuple(map(str, range(values.shape[2]))),
        statistics=torch.from_numpy(np.stack([table, np.ones_like(table)], axis=-1)),
        metric="probe", seconds=0.0, n_prompts=1, notes=(), provenance={"metric_is_mean": True},
    )  # fmt: skip


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_the_interval_holds_where_it_is_up_first(noise):
    """A rise over two layers to a plateau that falls again at the end, of answers that scatter."""
    true = np.array([0, 0, 0.1, 0.6, 1, 1, 1, 1, 1, 1, 0.8, 0.7])
    generator, held, layers = np.random.default_rng(0), [], []
    for _ in range(REPLICATIONS):
        items = generator.normal(1, 0.3, (1, 1, 32))
        values = true[:, None, None] * items + generator.normal(0, noise, (12, 2, 32))
        found = FIND["rise"](rising(values), HOW)
        held.append(found.interval[0] <= 4 <= found.interval[1])
        layers.append(found.layer)
        assert (found.draws[0] <= found.draws[1]).all() and (
            found.draws[:, -1] == found.layer
        ).all()
    assert np.mean(held) >= 0.95
    assert abs(np.mean(layers) - 4) < 0.5
    flat = [FIND["rise"](rising(generator.normal(0, 1, (12, 2, 32))), HOW) for _ in range(40)]
    assert sum(one.verdict == "no rise" for one in flat) >= 36


@pytest.mark.parametrize("size", [(16, 1), (64, 3)])
def test_no_damage_is_found_where_there_is_none(size):
    simulated = Methods(damages(12)["none"], np.ones(13), np.ones(12), *size)
    generator = np.random.default_rng(0)
    found = [FIND["drop"](simulated.curves(generator)["single_layer"], HOW) for _ in range(100)]
    assert sum(one.verdict == "no damage" for one in found) >= 90
    assert all((one.layer is None) == (one.verdict == "no damage") for one in found)


def test_the_end_is_less_biased_than_the_definition_taken_at_its_word():
    """Of 26 layers that do nothing, one or the other exceeds a tenth by chance."""
    simulated = Methods(put(32, {5: 1.0}), np.ones(33), np.ones(32), n_items=16, n_seeds=1)
    generator, ends, plain = np.random.default_rng(0), [], []
    for _ in range(40):
        effects = simulated.curves(generator)["single_layer"].effects
        ends.append(Drop(effects, 0.1, 0.95, 200, 0, 0).end)
        plain.append(1 + np.flatnonzero(effects.mean > 0.1 * effects.mean.max())[-1])
    assert abs(np.mean(ends) - 6) < 0.5 and np.mean(plain) > 9


@pytest.mark.parametrize("shape", ["aligned", "apart"])
def test_the_interval_of_a_difference_holds_the_difference(shape):
    simulated = Methods.of(12, shape)
    generator, held, widths = np.random.default_rng(0), [], []
    for _ in range(REPLICATIONS):
        found = {
            name: FIND[KINDS[name]](curve, HOW)
            for name, curve in simulated.curves(generator).items()
        }
        for a, b in (
            ("masking", "single_layer"),
            ("masking", "task_vector"),
            ("single_layer", "function_vector"),
        ):
            if found[a].draws is None or found[b].draws is None:
                continue
            _, (low, high) = distance(found[a].draws, found[b].draws, 0.95)
            true = [x - y for x in simulated.truths[a] for y in simulated.truths[b]]
            held.append(any(low <= one <= high for one in true))
            widths.append(high - low)
    assert len(held) > 2.5 * REPLICATIONS and np.mean(held) >= 0.95
    assert np.mean(widths) <= (2.5 if shape == "aligned" else 5)


def test_what_moves_both_curves_alike_goes_out_of_their_difference():
    """The same curve twice: on the same items there is none, drawn apart there is noise."""
    plateau = Methods.of(12, "apart", n_items=16, n_seeds=1, metric="log_prob")
    curve = plateau.curves(np.random.default_rng(2))["task_vector"]
    alike, apart = FIND["peak"](curve, HOW), FIND["peak"](curve, replace(HOW, seed=1, rest_seed=1))
    assert distance(alike.draws, alike.draws, 0.95) == (0, (0, 0))
    _, (low, high) = distance(alike.draws, apart.draws, 0.95)
    assert low < 0 < high


def test_a_gain_to_the_last_layer_ends_nowhere():
    curve = Methods.of(6).curves(np.random.default_rng(0))["function_vector"]
    table = curve.statistics.clone()
    table[:-1, ..., 0] = table[-1, ..., 0] + 1.0 + 0.01 * torch.rand(table[:-1, ..., 0].shape)
    never = FIND["drop"](replace(curve, statistics=table), HOW)
    assert (never.verdict, never.layer, never.interval) == ("gain never ends", None, None)
    table[-2, ..., 0] = table[-1, ..., 0]
    assert FIND["drop"](replace(curve, statistics=table), HOW).layer == 5
