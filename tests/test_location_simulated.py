"""Layers that are known, located: how often, how surely, and how far off; a short benchmark.

``tests/benchmarks/location.py`` has more settings, more replications, and other methods beside it.
Each bound fails where a part of the estimator is left out: the ceiling's pooling, the dips, the
smooth curve that draws are made around, or the level of confidence.
"""

from dataclasses import replace

import numpy as np
import pytest
from simulated import CHANCE, SHAPES, Simulated, recognised

import icl_locate as icl

DEEP = Simulated(n_layers=60, correlation=0)
STEP = Simulated()
DIP = Simulated("dip")
LLAMA = Simulated("Llama", ceiling=0.42)
LINEAR = Simulated("linear")
SLOW = Simulated("slow", layer=16)
RAMP = Simulated("ramp past", layer=16, seed_by_layer=0.05)
OVER = Simulated("overshoot")
DIFFER = {"seed_level": 0.7, "seed_by_layer": 0.1}
REPLICATIONS = 100


@pytest.mark.parametrize(
    ("simulated", "coverage", "width", "exact", "bias"),
    [
        pytest.param(DEEP, 0.97, 10.0, 0.92, 1.0, id="60 layers"),
        pytest.param(STEP, 0.97, 7.0, 0.85, 0.5, id="step"),
        pytest.param(DIP, 0.97, 5.0, 0.93, 0.5, id="dip"),
        pytest.param(LLAMA, 0.97, 11.5, 0.4, 0.5, id="Llama"),
        pytest.param(LINEAR, 0.92, 8.0, 0.15, 1.0, id="linear"),
        pytest.param(SLOW, 0.92, 14.0, 0.08, 1.0, id="slow"),
        pytest.param(RAMP, 0.95, 8.0, 0.6, 1.2, id="ramp, seeds differ"),
        pytest.param(OVER, 0.97, 1.5, 0.95, 0.1, id="overshoot"),
    ],
)
def test_a_layer_that_is_known(simulated, coverage, width, exact, bias):
    located = icl.locate(simulated.result(REPLICATIONS), n_resamples=250)
    layer, low, high, upper = np.array([(x.layer, *x.interval, x.upper_any) for x in located]).T
    truth = simulated.truth
    assert ((low <= truth) & (truth <= high)).mean() >= coverage
    assert (high - low).mean() <= width
    assert (layer == truth).mean() >= exact
    assert abs((layer - truth).mean()) <= bias
    assert (upper >= truth).mean() >= 0.97
    assert all(x.n_items == simulated.n_items for x in located)


@pytest.mark.parametrize(
    "options",
    [{}, {"n_items": 16}, {"n_items": 32, "n_seeds": 1}, {"seed_by_layer": 0.1}],
    ids=["64x3", "16x3", "32x1", "seeds differ"],
)
def test_no_effect_is_found_where_there_is_none(options):
    nothing = Simulated("nothing", **options)
    located = icl.locate(nothing.result(200), n_resamples=10)
    verdicts = [found.verdict for found in located]
    assert verdicts.count("no effect") >= 0.9 * len(verdicts)
    assert verdicts.count("context harms") <= 0.05 * len(verdicts)
    assert sum(found.layer is not None for found in located) <= 0.05 * len(verdicts)


@pytest.mark.parametrize(
    ("n_seeds", "differ"),
    [(1, {}), (5, {}), *((n, {key: size}) for n in (1, 3, 5) for key, size in DIFFER.items())],
)
def test_the_effects_interval_holds_the_effect_as_often_as_it_says(n_seeds, differ):
    """Of one seed it holds what that seed's effect is: where seeds differ, that is another."""
    simulated = Simulated(n_layers=3, layer=2, n_seeds=n_seeds, **differ)
    located = icl.locate(simulated.result(200), n_resamples=1)
    effect = simulated.effect
    held = [found.effect[1] <= effect <= found.effect[2] for found in located]
    if n_seeds == 1 and differ:
        assert np.mean(held) < 0.9
    else:
        assert 0.91 <= np.mean(held) <= 0.985


def test_many_conditions_at_once_are_located_as_each_alone():
    result = replace(RAMP, n_items=32).result(3)
    together = icl.locate(result, n_resamples=50)
    for i, found in enumerate(together):
        (alone,) = icl.locate(_one(result, i), n_resamples=50)
        for name in ("verdict", "layer", "interval", "upper_any", "effect", "level", "dips"):
            assert getattr(alone, name) == getattr(found, name), name


def _one(result, i):
    """One condition of a result."""
    only = {name: getattr(result, name)[i : i + 1] for name in ("statistics", "scores")}
    return replace(
        result, conditions=result.conditions[i : i + 1], item_scores=result.item_scores[i : i + 1],
        **only,
    )  # fmt: skip


# The simulator itself.


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "nothing"])
def test_a_curve_is_recovered_from_its_layer_on_and_not_before(shape):
    simulated = Simulated(shape)
    curve, truth = simulated.recovery, simulated.truth
    assert curve[0] == 0 and curve[-1] == pytest.approx(1)
    assert (curve[truth:] >= 0.9 - 1e-9).all() and curve[truth - 1] < 0.9
    assert recognised(curve) == truth


def test_scores_are_those_of_the_curve():
    simulated = Simulated("ramp", 12, 9, n_items=200, correlation=0)
    means = simulated.statistics(100, seed=3)[..., 0].mean(axis=(0, 2, 3))
    able = means[-1]
    expected = able * (CHANCE + (1 - CHANCE) * simulated.recovery)
    np.testing.assert_allclose(means, expected, atol=0.01)
    assert simulated.effect == pytest.approx(able * (1 - CHANCE), abs=0.01)


@pytest.mark.parametrize("correlation", [0, 0.9, 1])
def test_noise_goes_together_over_layers_as_much_as_is_said(correlation):
    nothing = Simulated("nothing", 4, 2, n_items=400, correlation=correlation, seed_level=0)
    values = nothing.statistics(20, seed=1)[..., 0]
    same = (values[:, 0] == values[:, 1]).mean()
    assert same == pytest.approx({0: 0.675, 0.9: 0.9, 1: 1.0}[correlation], abs=0.02)


def test_bleu_is_of_counts_that_texts_could_have():
    counts = Simulated(metric="bleu", n_layers=12, layer=6).statistics(2, seed=0)
    said, wanted, matched, all_of_them = (
        counts[..., 0], counts[..., 1], counts[..., 2:6], counts[..., 6:],
    )  # fmt: skip
    assert (counts == counts.round()).all() and (counts >= 0).all() and (wanted >= 4).all()
    assert (matched <= all_of_them).all() and (np.diff(matched) <= 0).all()
    assert (all_of_them == said[..., None] - np.arange(4)).all()
    scores = Simulated(metric="bleu", n_layers=12, layer=6).result(2).scores
    assert (scores[:, 0] < 5).all() and (scores[:, -1] > 40).all()
