"""Location: planted models, planted curves, the estimator's steps, and what is no curve."""

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import planted
import pytest
import simulated
import tiny
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate.errors import ResultError
from icl_locate.masking.crossing import Crossing
from icl_locate.metrics import mean_statistics, score_totals

N_LAYERS = 6
TASK = icl.load_task("pseudo-translation")


def sweep_planted(layers):
    """Sweep a model with attention in some layers only; its clean answers are the targets.

    So its ceiling is 1 by construction, and whatever the context changes is a loss.
    """
    model = tiny.bridge(planted.attention_only_in(layers, N_LAYERS))
    options = {"n_shots": 2, "n_queries": 8, "seeds": [0], "max_new_tokens": 5}
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
    statistics = np.stack([values, np.ones_like(values)], axis=-1)
    return replace(simulated.result_of(statistics), provenance=provenance)


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
    dips = [[0, 0.2, 0.95, 0.4, 0.92, 0.99, 1.0], [0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0]]
    assert [found.layer for found in icl.locate(result_of(dips))] == [4, 4]
    assert icl.locate(result_of([[0, 1.0, 1.0, 1.0]]))[0].layer == 1


def test_each_condition_is_measured_against_its_own_ceiling():
    result = result_of([[0, 0.1, 0.9, 1.0], [0, 0.3, 0.5, 0.5]])
    assert [found.layer for found in icl.locate(result)] == [2, 2]
    assert [found.ceiling for found in icl.locate(result)] == [1.0, 0.5]


@given(st.lists(st.integers(0, 20), min_size=2, max_size=12), st.integers(1, 20))
def test_without_noise_the_layer_equals_its_definition(curve, threshold):
    """In whole numbers, where comparisons are exact; the threshold counts twentieths."""
    floor, ceiling = curve[0], curve[-1]
    assume(ceiling > floor)
    recovered = [20 * (s - floor) >= threshold * (ceiling - floor) for s in curve]
    expected = [all(recovered[i:]) for i in range(len(curve))].index(True)
    size = len(curve)
    found, _ = Crossing(np.zeros((size, size)), threshold / 20).layers(np.array(curve, dtype=float))
    assert found == expected


def plain_layer(scores, covariance, threshold):
    """The estimator as docs/locations.md tells it, one layer after the other."""
    n = len(scores) - 1

    def error(weights):
        return math.sqrt(max(sum(
            weights[i] * covariance[i, j] * weights[j] for i in weights for j in weights
        ), 0.0))  # fmt: skip

    def against(ones, others):
        weights = dict.fromkeys([*ones, *others], 0.0)
        for i in ones:
            weights[i] += 1 / len(ones)
        for i in others:
            weights[i] -= 1 / len(others)
        return sum(scores[i] * w for i, w in weights.items()), error(weights)

    top = n
    while top > 1:
        middle = (top - 1 + n) // 2
        tests = [
            against([top - 1], range(top, n + 1)),
            against(range(top - 1, middle + 1), range(middle + 1, n + 1)),
        ]
        if any(abs(gap) > 2.5 * noise + 1e-9 for gap, noise in tests):
            break
        top -= 1
    level = sum(scores[top:]) / (n + 1 - top)
    above = [s - (1 - threshold) * scores[0] - threshold * level for s in scores]

    def crossing(start):
        sums = [sum(above[start : m + 1]) for m in range(start, n)]
        return start + 1 + sums.index(min(sums))

    def is_dip(m, layer):
        margin = NormalDist().inv_cdf(1 - 0.01 / max(n - layer, 1))
        near = [
            against([m], [j for j in range(max(m - w, 0), min(m + w, n) + 1) if j != m])
            for w in (1, 2, 4, 8)
        ]
        others = [j for j in range(layer, n + 1) if j != m]
        share = len(others) / (len(others) + 1)  # the plateau's mean has the layer in it
        gap, noise = against([m], others)
        tests = [(gap * share, noise * share), min(near, key=lambda test: round(test[1], 14))]
        return any(gap < -margin * noise - 1e-9 for gap, noise in tests)

    layer = crossing(0)
    for _ in range(2):
        dips = [m for m in range(layer, n) if above[m] < 0 and is_dip(m, layer)]
        if not dips:
            break
        layer = crossing(dips[-1])
    return layer


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_estimator_equals_its_steps_taken_one_by_one(shared):
    generator = np.random.default_rng(3)
    n, found, expected = 16, [], []
    places = np.arange(n + 1)
    covariance = 0.003 * shared ** np.abs(places[:, None] - places)
    shapes = [
        np.clip((places - 4) / 3, 0, 1),
        np.where(places == 11, 0.65, np.clip((places - 4) / 3, 0, 1)),
        np.where((places > 8) & (places < 12), 0.7, np.clip(places - 2, 0, 1)),
        places / n,
        np.where(places < n, 0.8 * np.clip(places - 5, 0, 1), 1.0),
    ]
    for shape in shapes:
        noisy = generator.multivariate_normal(shape, covariance, size=30)
        found += Crossing(covariance, 0.9).layers(noisy)[0].tolist()
        expected += [plain_layer(curve.tolist(), covariance, 0.9) for curve in noisy]
    assert found == expected and len(set(found)) > 3


@pytest.mark.parametrize(
    ("points", "layer"),
    [
        ({10: 1, 12: 11, 15: 10, 16: 40, 17: 40.9}, 16),
        ({10: 1, 15: 12, 16: 35.5, 17: 40, 18: 40.9}, 17),
        ({1: 5, 8: 24, 10: 7, 12: 29, 14: 21, 15: 37, 16: 41, 33: 42}, 16),
        ({15: 1, 16: 1.5, 17: 12.5, 20: 35, 26: 41}, 22),
        ({15: 1, 16: 1.5, 17: 12.5, 20: 32.5, 28: 41}, 25),
    ],
)
def test_the_published_curves_of_llama(points, layer):
    """Sia et al. 2024, Figure 2, Llama-3.1-8B, en-fr; layers from 1, read off the figure."""
    scores = np.interp(np.arange(1, 34), list(points), list(points.values()))
    (found,) = icl.locate(result_of([scores]))
    assert found.layer + 1 == layer and found.interval == (layer - 1, layer - 1)
    assert found.verdict == "recognised"
    if 8 in points:
        assert {9, 13} <= {*found.dips} and 11 not in found.dips, "lowest at layers 10 and 14"


def step(n, layer, height=1.0, floor=0.0):
    return np.where(np.arange(n + 1) < layer, floor, height)


def test_verdicts():
    curves = [step(12, 5), step(12, 12), np.full(13, 0.4), step(12, 5, 0.2, 0.7)]
    found = icl.locate(result_of(curves, noise=0.2, n_items=100))
    assert [each.verdict for each in found] == [
        "recognised",
        "never recovered",
        "no effect",
        "context harms",
    ]
    assert [each.layer for each in found] == [5, 12, None, None]
    assert found[3].effect[2] < 0 < found[0].effect[1]
    for each in found[2:]:
        assert each.interval is None and each.upper_any is None and each.jump_layer is None
        assert each.recovery.isnan().all() and not each.recovered.any()


def test_too_much_noise_resolves_nothing_and_says_what_would():
    noisy = {"noise": 1.2, "n_seeds": 3}
    (found,) = icl.locate(result_of([step(24, 6, 0.5)], n_items=60, **noisy))
    assert found.verdict == "not resolved" and found.interval[1] - found.interval[0] > 12
    assert found.layer in range(found.interval[0], found.interval[1] + 1)
    assert found.enough_items > 60
    (more,) = icl.locate(result_of([step(24, 6, 0.5)], n_items=2 * found.enough_items, **noisy))
    assert more.verdict == "recognised" and more.layer == 6


def test_a_floor_that_is_not_the_lowest_point():
    """Kept instructions do the task alone; with half of the context hidden they do not."""
    curve = np.array([0.70, 0.5, 0.05, 0.05, 0.3, 0.69, 0.7, 0.7, 0.7, 0.7, 0.7])
    (found,) = icl.locate(result_of([curve], noise=0.3, n_items=60))
    assert found.effect[1] < 0 < found.effect[2], "hidden everywhere it is not missed"
    assert found.lowest in (2, 3) and found.verdict == "recognised" and found.layer == 5
    assert found.recovery[found.lowest] == 0 and "recovery is measured from there" in str(found)
    half = np.array([0.3, 0.2, 0.05, 0.05, 0.3, 0.9, 0.9, 0.9])
    (found,) = icl.locate(result_of([half], noise=0.1))
    assert found.recovery[0] == 0 and found.lowest in (2, 3) and found.layer == 5


def test_a_real_dip_counts_and_an_unlucky_layer_does_not():
    curve = step(20, 6)
    curve[13] = 0.6
    (found,) = icl.locate(result_of([curve], noise=0.3, n_items=60))
    assert found.layer == 14 and found.dips == (13,) and found.upper_any >= 14
    curve[13] = 0.88
    (found,) = icl.locate(result_of([curve], noise=0.8, n_items=60))
    assert found.layer == 6 and found.dips == ()
    assert found.upper_any > 6, "without a shape nothing tells it from a dip"


@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_units_change_nothing(scale, shift):
    values = result_of([step(8, 3), np.linspace(0, 1, 9)], noise=0.4).item_scores.numpy()
    known, found = (icl.locate(result_with(v)) for v in (values, scale * values + shift))
    for a, b in zip(known, found, strict=True):
        assert (a.layer, a.interval, a.upper_any, a.verdict) == (
            b.layer, b.interval, b.upper_any, b.verdict
        )  # fmt: skip


def test_intervals_are_seeded_and_grow_with_confidence():
    result = result_of([np.clip((np.arange(17) - 4) / 8, 0, 1)], noise=0.8, n_items=64)
    spans = [icl.locate(result, confidence=c)[0].interval for c in (0.5, 0.8, 0.95, 0.99)]
    widths = [high - low for low, high in spans]
    assert widths == sorted(widths) and widths[-1] > widths[0]
    assert icl.locate(result, seed=1)[0].interval == icl.locate(result, seed=1)[0].interval


def test_one_item_gives_a_layer_and_no_interval():
    (found,) = icl.locate(result_of([[0, 0, 1.0, 1.0]], n_items=1, n_seeds=1))
    assert found.layer == 2 and found.interval is None and found.upper_any is None
    assert found.verdict == "not resolved" and np.isnan(found.effect[1:]).all()
    assert found.score_interval.isnan().all() and "a single item" in str(found)
    (found,) = icl.locate(result_of([[0.5, 0, 0.5]], n_items=1, n_seeds=3))
    assert found.verdict == "no effect" and found.layer is None


def test_few_items_are_said_to_be_few():
    (found,) = icl.locate(result_of([[0, 0, 1.0, 1.0]], n_items=7, n_seeds=1))
    assert found.interval == (2, 2) and "7 items are too few" in str(found)
    (found,) = icl.locate(result_of([[0, 0, 1.0, 1.0]], n_items=8, n_seeds=1))
    assert found.notes == ()


def test_curves_without_scatter():
    same = result_of([step(6, 2), np.full(7, 0.3), step(6, 6), step(6, 3, 0, 1)])
    found = icl.locate(same)
    assert [each.layer for each in found] == [2, None, 6, None]
    assert [each.verdict for each in found] == [
        "recognised", "no effect", "never recovered", "context harms",
    ]  # fmt: skip
    assert found[0].interval == (2, 2) and found[0].effect == (1.0, 1.0, 1.0)


def test_a_model_of_one_layer():
    (found,) = icl.locate(result_of([[0.2, 0.8]], noise=0.1))
    assert (found.layer, found.interval, found.upper_any) == (1, (1, 1), 1)
    assert found.verdict == "never recovered"


def test_what_float32_leaves_of_equal_scores_is_no_effect():
    curve = 0.5 + 1e-8 * np.arange(5)
    (found,) = icl.locate(result_of([curve]))
    assert found.verdict == "no effect" and found.layer is None and found.lowest == 0


def test_a_coarse_grid_names_the_layers_that_it_leaves_open():
    values = result_of([step(12, 5)], noise=0.1).item_scores[:, [0, 4, 8, 12]].numpy()
    coarse = replace(result_with(values), layers=(0, 4, 8, 12))
    (found,) = icl.locate(coarse)
    assert (found.layer, found.after, found.place) == (8, 4, "5 to 8")
    assert found.interval == (5, 8) and found.verdict == "recognised"
    last = replace(result_with(values[:, [0, 0, 0, 3]]), layers=(0, 4, 8, 12))
    (found,) = icl.locate(last)
    assert found.verdict == "recognised" and found.place == "9 to 12", "11 may do as well"


class Median:
    """A metric of one's own that is no mean and has no gradient."""

    name, signature = "median_of_sums", "mine"

    def statistics(self, answers, targets):
        return np.array(
            [
                [float(answer == target), 1.0, 1.0]
                for answer, target in zip(answers, targets, strict=True)
            ]
        )

    def score(self, totals):
        return float(np.floor(8 * totals[0] / totals[1]) / 8)


def test_a_metric_without_a_gradient():
    generator = np.random.default_rng(0)
    hits = generator.random((1, 9, 2, 40)) < step(8, 3, 0.9, 0.1)[None, :, None, None]
    statistics = np.stack([hits, np.ones(hits.shape), np.ones(hits.shape)], axis=-1).astype(float)
    metric = Median()
    result = replace(
        result_with(hits.astype(float), signature="mine"),
        statistics=torch.from_numpy(statistics),
        scores=torch.from_numpy(score_totals(metric, statistics.sum(axis=-2))),
        metric=metric.name,
        custom_metric=metric,
    )
    (found,) = icl.locate(result)
    assert found.layer == 3 and found.interval[0] <= 3 <= found.interval[1]


def test_scores_that_are_no_numbers_make_no_result():
    values = np.zeros((1, 3, 1, 4))
    values[0, 1] = np.nan
    with pytest.raises(ResultError, match="item_scores|scores|statistics"):
        result_with(values)


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


@pytest.mark.parametrize(("standard_errors", "upper"), [(1.85, 2), (2.25, 1)])
def test_the_upper_end_with_no_shape_assumed_is_two_sided(standard_errors, upper):
    """Of 40 items a layer is above the threshold beyond noise by 2.02 standard errors or more."""
    values = np.zeros((1, 3, 1, 40))
    values[0, 1, 0] = 0.9 + 0.02 * (standard_errors / np.sqrt(39) + np.tile([1, -1], 20))
    values[0, 2] = 1
    assert icl.locate(result_with(values), n_resamples=20_000)[0].upper_any == upper


def test_the_threshold_is_between_floor_and_ceiling_wherever_these_lie():
    curve = np.linspace(0, 1, 13)
    for shift in (0, 10):
        (found,) = icl.locate(result_of([curve + shift], noise=1e-4), threshold=0.55)
        assert (found.layer, found.interval, found.upper_any) == (7, (7, 7), 7)


def test_an_interval_ends_where_the_upper_end_with_no_shape_assumed_does():
    """The draws alone would go on to layer 9."""
    curve = np.r_[[0.0] * 3, 0.5, [1.0] * 9]
    noisy = result_of([curve], noise=0.3, n_items=10, n_seeds=3, seed=131)
    (found,) = icl.locate(noisy, n_resamples=300)
    assert (found.layer, found.interval, found.upper_any) == (4, (4, 8), 8)


def test_what_counts_as_recovered_and_as_a_fall_goes_by_the_threshold():
    result = result_of([[0, 0.6, 1, 0.7, 1, 1]])
    low, high = (icl.locate(result, threshold=share)[0] for share in (0.5, 0.9))
    assert low.recovered.tolist() == [False, True, True, True, True, True] and low.dips == ()
    assert high.recovered.tolist() == [False, False, True, False, True, True] and high.dips == (3,)


def test_an_interval_over_just_half_of_the_layers_says_where():
    half = replace(result_of([[0, 1.0, 1]]), layers=(0, 7, 12))
    (found,) = icl.locate(half)
    assert (found.verdict, found.interval) == ("recognised", (1, 7))


def test_what_float32_leaves_of_equal_scores_harms_nothing():
    (found,) = icl.locate(result_of([0.5 - 1e-8 * np.arange(5)]))
    assert found.verdict == "no effect"


@pytest.mark.parametrize("layers", [(4,), (1, 4)])
def test_a_result_without_a_floor(layers):
    values = result_of([[0, 1.0]])
    if len(layers) == 1:
        values = result_with(values.item_scores[:, :1].numpy())
    with pytest.raises(ResultError, match="layers is .*: expected 0 and a layer behind it"):
        icl.locate(replace(values, layers=layers))


@pytest.mark.parametrize("n_items", [4, 6])
def test_few_items_do_not_make_curves_fall(n_items):
    """Of six curves that only rise, none may be said to fall: one in a hundred is."""
    curve = np.r_[[0.0] * 6, 0.25, 0.5, 0.75, [1.0] * 24]
    found = icl.locate(result_of([curve] * 6, noise=0.1, n_items=n_items, n_seeds=3))
    assert [location.dips for location in found] == [()] * 6


def test_a_dip_that_shows_where_another_is_left_behind():
    """The first dip hides the second in the plateau's mean, until the plateau begins behind it."""
    curve = np.array([0, 0, 0, 1, 1, 0, 1, 1, 1, 0.45, 1, 1, 1.0])
    layer, dip = Crossing(0.15**2 * np.eye(13), 0.5).layers(curve)
    assert (int(layer), int(dip)) == (10, 9)


def test_a_dip_below_neighbours_whose_noise_is_much_the_same():
    tilt = np.linspace(-1, 1, 13)
    covariance = np.outer(tilt, tilt) + 0.01**2 * np.eye(13)
    curve = np.array([0, 0, 0, *[1.0] * 7, 0.7, 1, 1])
    assert int(Crossing(covariance, 0.9).layers(curve)[0]) == 11


def test_the_ceiling_is_without_the_floor_and_noisy_layers_weigh_less():
    curve = np.array([0.0, 0.1, 0.2, 0.4])
    ceiling = Crossing(100 * np.eye(4), 0.9).ceiling(curve)
    assert float(ceiling) == pytest.approx(0.7 / 3), "all of it is level, but the floor is no part"
    uneven = Crossing(np.diag([100.0, 700, 100, 100]), 0.9).ceiling(curve)
    assert float(uneven) == pytest.approx((0.1 / 10 + 0.2 / 4 + 0.4 / 4) / (1 / 10 + 2 / 4))


def test_a_custom_metric_that_is_not_here():
    result = replace(result_of([[0, 1.0]]), metric="mine")
    with pytest.raises(ResultError, match="'mine' is not part of icl_locate"):
        icl.locate(result)
    assert mean_statistics([1.0, 2.0]).tolist() == [[1.0, 1.0], [2.0, 1.0]]


def test_nothing_is_recovered_at_the_floor_itself():
    found = icl.locate(result_of([[0, 0, 1, 1]], noise=0.01), threshold=1e-10)[0]
    assert found.layer > 0 and found.after == found.layer - 1
    assert 0 < found.interval[0] <= found.interval[1]
