"""Location: planted models, planted curves, and the bootstrap."""

import numpy as np
import planted
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate.errors import ResultError
from icl_locate.masking.location import recognition_layer
from icl_locate.metrics import mean_statistics

N_LAYERS = 6
TASK = icl.load_task("pseudo-translation")


def sweep_planted(layers):
    """Sweep a model with attention in some layers only; its clean answers are the targets.

    So its ceiling is 1 by construction, and whatever the context changes is a loss.
    """
    model = tiny.bridge(planted.attention_only_in(layers, N_LAYERS))
    options = {"n_shots": 2, "n_queries": 8, "seeds": [0], "max_new_tokens": 3}
    clean = icl.sweep(model, TASK, conditions=["query"], **options).texts[0][-1][0]
    test = tuple(icl.Example(e.source, a) for e, a in zip(TASK.test, clean, strict=False))
    task = icl.Task("planted", TASK.train, test, TASK.template, "exact_match")
    return icl.sweep(model, task, conditions=icl.PAPER_CONDITIONS[1:], **options)


def result_of(curves, noise=0.0, n_items=20, n_seeds=2, seed=0):
    """A result whose items follow planted curves, Float[condition, layer], with noise."""
    curves = np.asarray(curves, dtype=float)
    generator = np.random.default_rng(seed)
    shape = (*curves.shape, n_seeds, n_items)
    return result_with(curves[..., None, None] + noise * generator.normal(size=shape))


def result_with(values, **provenance):
    """A result with the scores of its items, Float[condition, layer, seed, item]."""
    n_conditions, n_layers, n_seeds, n_items = values.shape
    statistics = np.stack([values, np.ones_like(values)], axis=-1)
    return icl.SweepResult(
        conditions=tuple(f"c{i}" for i in range(n_conditions)),
        layers=tuple(range(n_layers)),
        seeds=tuple(range(n_seeds)),
        statistics=torch.from_numpy(statistics),
        item_scores=torch.from_numpy(values),
        scores=torch.from_numpy(values.mean(-1)),
        texts=[],
        sources=("s",) * n_items,
        targets=("t",) * n_items,
        metric="exact_match",
        provenance=provenance,
    )


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_attention_in_one_layer_is_located_right_behind_it(layer):
    result = sweep_planted({layer})
    located = icl.locate(result, n_resamples=200)
    assert len(located) == 5
    for found in located:
        assert found.layer == layer + 1, found.condition
        assert found.interval == (layer + 1, layer + 1)
        assert found.jump_layer == layer + 1
        assert found.ceiling == 1.0
        assert (found.scores[layer + 1 :] == 1.0).all(), "nothing above the layer matters"
        assert (found.scores[: layer + 1] == found.floor).all(), "nothing below it does"


def test_attention_in_two_layers_is_located_behind_the_last():
    located = icl.locate(sweep_planted({1, 4}), n_resamples=200)
    layers = [found.layer for found in located if found.layer is not None]
    assert set(layers) == {5}
    assert len(layers) >= 4, "the query alone changes too few of these answers to be an effect"


def test_a_first_crossing_is_not_enough():
    dips = [0, 0.2, 0.95, 0.4, 0.92, 0.99, 1.0]
    assert recognition_layer(np.array(dips), 0.9) == 4
    assert recognition_layer(np.array([0, 1.0, 1.0, 0.1, 1.0]), 0.9) == 4
    assert recognition_layer(np.array([0, 1.0, 1.0, 1.0]), 0.9) == 1
    assert recognition_layer(np.array([1.0, 1.0, 1.0]), 0.9) == 2, "no effect: the last layer"


@given(st.lists(st.integers(0, 20), min_size=2, max_size=12), st.integers(1, 20))
def test_recognition_layer_equals_its_definition(curve, threshold):
    """In whole numbers, where comparisons are exact; the threshold counts twentieths."""
    floor, ceiling = curve[0], curve[-1]
    recovered = [20 * (s - floor) >= threshold * (ceiling - floor) for s in curve]
    held = [ceiling > floor and all(recovered[i:]) for i in range(len(curve))]
    expected = held.index(True) if any(held) else len(curve) - 1
    assert recognition_layer(np.array(curve, dtype=float), threshold / 20) == expected


def test_each_condition_is_measured_against_its_own_ceiling():
    result = result_of([[0, 0.1, 0.9, 1.0], [0, 0.3, 0.5, 0.5]])
    assert [found.layer for found in icl.locate(result)] == [2, 2]
    assert [found.ceiling for found in icl.locate(result)] == [1.0, 0.5]


def test_no_in_context_effect():
    flat, worse = icl.locate(result_of([[0.5] * 5, [0.9, 0.5, 0.5, 0.5, 0.4]]))
    for found in (flat, worse):
        assert found.layer is None and found.interval is None and found.jump_layer is None
        assert str(found) == f"{found.condition}: no in-context effect"
        assert found.recovery.isnan().all()
    noisy = icl.locate(result_of([[0.50, 0.5, 0.51, 0.51]], noise=1.0, n_items=10))
    assert noisy[0].layer is None, "a difference within the noise is no effect"


def test_a_difference_that_may_be_nothing_is_no_effect():
    """Two items of twenty: one resample in eight draws neither, so the interval begins at 0."""
    values = np.zeros((1, 4, 2, 20))
    values[:, 2:, :, :2] = 1.0
    found = icl.locate(result_with(values))[0]
    assert found.effect[0] == pytest.approx(0.1) and found.effect[1] == 0
    assert found.layer is None and found.interval is None and found.recovery.isnan().all()


def test_a_lucky_resample_makes_no_effect():
    """Where the means say that there is none, no draw can: here every other one is above 0."""
    values = np.zeros((1, 3, 1, 4))
    values[0, -1, 0] = [-2.0, -1.0, 1.0, 2.0]
    found = [icl.locate(result_with(values), n_resamples=1, seed=s)[0] for s in range(8)]
    assert max(each.effect[1] for each in found) > 0
    assert {each.layer for each in found} == {None}


def test_the_interval_covers_the_planted_layer_at_its_level():
    curve = np.array([0, 0, 0.1, 0.5, 0.97, 1.0, 1.0])
    results = [result_of([curve], noise=0.25, n_items=32, seed=s) for s in range(60)]
    found = [icl.locate(result, n_resamples=200, confidence=0.9)[0] for result in results]
    covered = [f.interval[0] <= 4 <= f.interval[1] for f in found]
    assert np.mean(covered) >= 0.85
    assert {f.interval for f in found} != {(4, 4)}, "noise must widen some intervals"


def test_the_bootstrap_is_paired_seeded_and_right():
    result = result_of([[0, 0.5, 1.0], [0, 0.5, 1.0]], noise=0.3)
    same = result_of([[0, 0.5, 1.0]], noise=0.3)
    curves = result.resampled(400, seed=0)
    assert np.array_equal(curves, result.resampled(400, seed=0))
    assert not np.array_equal(curves, result.resampled(400, seed=1))
    mean = result.scores.numpy().mean(-1)
    assert np.allclose(curves.mean(0), mean, atol=0.03)
    items = same.item_scores.numpy()[0, 1]  # seed, item
    naive = np.random.default_rng(5)
    draws = [
        items[np.ix_(naive.integers(0, 2, 2), naive.integers(0, 20, 20))].mean()
        for _ in range(4000)
    ]
    ours = same.resampled(4000, seed=0)[:, 0, 1]
    assert np.isclose(np.std(ours), np.std(draws), rtol=0.1)


def test_one_item_gives_a_layer_and_no_interval():
    found = icl.locate(result_of([[0, 0, 1.0, 1.0]], n_items=1, n_seeds=1))[0]
    assert found.layer == 2 and found.interval is None
    assert str(found) == "c0: recognised by layer 2"
    found = icl.locate(result_of([[0, 0, 1.0, 1.0]], n_items=2, n_seeds=1))[0]
    assert found.layer == 2 and found.interval == (2, 2), "two items can be drawn anew"


def test_the_ends_of_the_interval_are_the_first_and_the_last_layer_that_resamples_find():
    """Half of the items recover at layer 1, half at layer 3: the mean crosses 0.55 at layer 3."""
    values = np.zeros((1, 5, 1, 40))
    values[:, 1:, :, ::2] = 1.0
    values[:, 3:] = 1.0
    result = result_with(values)
    found = icl.locate(result, threshold=0.55)[0]
    assert found.layer == 3 and found.interval == (1, 3) and found.jump_layer == 1
    assert found.jump == 0.5 and "layer 3 [1, 3]" in str(found)
    layers = np.sort(recognition_layer(result.resampled(1000, seed=0)[:, 0], 0.55))
    first = int((layers < 3).sum())
    assert 100 < first < 450 and set(layers.tolist()) == {1, 3}
    for tail in (10, 200, first - 1, first - 0.6, first - 0.4, first, 490):  # never in between
        confidence = 1 - 2 * tail / 999
        low, high = icl.locate(result, threshold=0.55, confidence=confidence)[0].interval
        assert (low, high) == (layers[round(tail)], layers[round(999 - tail)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"n_resamples": 0}, "n_resamples is 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ResultError, match=message):
        icl.locate(result_of([[0, 1.0]]), **options)


def test_a_custom_metric_that_is_not_here():
    from dataclasses import replace

    result = replace(result_of([[0, 1.0]]), metric="mine")
    with pytest.raises(ResultError, match="'mine' is not part of icl_locate"):
        icl.locate(result)
    assert mean_statistics([1.0, 2.0]).tolist() == [[1.0, 1.0], [2.0, 1.0]]


def test_nothing_is_recovered_at_the_floor_itself():
    found = icl.locate(result_of([[0, 0, 1, 1]], noise=0.01), threshold=1e-10)[0]
    assert found.layer > 0 and found.after == found.layer - 1
    assert 0 < found.interval[0] <= found.interval[1]
