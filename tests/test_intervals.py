"""Intervals: against analysis of variance by loops, and against the truth of simulations."""

from dataclasses import replace
from itertools import product

import anova
import numpy as np
import pytest
import sacrebleu
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_locate import result_of, result_with

import icl_locate as icl
from icl_locate.errors import ResultError
from icl_locate.masking.importance import layer_importance
from icl_locate.metrics import METRICS
from icl_locate.savings import measure_savings
from icl_locate.studies import Spread
from icl_locate.studies.draws import draw, percentiles, shortest

MEAN = METRICS["exact_match"]


def statistics_of(values):
    """The statistics of a mean over items, of Float[cell, seed, item]."""
    return np.stack([values, np.ones_like(values)], axis=-1)


def scattered(*shape, item=1.0, seed=0.3, rest=0.5, generator=None):
    """Float[cell, seed, item] of mean 0: standard deviations of items, seeds, and item by seed.

    Items and seeds move all cells alike by half of their variance, and each cell by the other half.
    """
    generator = np.random.default_rng(11) if generator is None else generator
    *cells, n_seeds, n_items = shape

    def normal(*size):
        return generator.standard_normal(size)

    ones = [1] * len(cells)
    items = normal(*ones, 1, n_items) + normal(*cells, 1, n_items)
    seeds = normal(*ones, n_seeds, 1) + normal(*cells, n_seeds, 1)
    return (item * items + seed * seeds) / np.sqrt(2) + rest * normal(*shape)


# What each item adds.


def test_what_an_item_adds_to_a_mean_is_its_value_minus_the_mean():
    values = scattered(4, 3, 9)
    for spread in (Spread.of(MEAN, statistics_of(values)), Spread.of_means(values)):
        for place in range(4):
            scores, adds = anova.of_mean(values[place])
            np.testing.assert_allclose(spread.scores[place], scores, atol=1e-12)
            np.testing.assert_allclose(spread.influence[place], adds, atol=1e-12)
            left_out, lost = anova.jackknife(lambda items: sum(items) / len(items), values[place])
            np.testing.assert_allclose(left_out, scores, atol=1e-12)
            np.testing.assert_allclose(lost, adds, atol=1e-12)


def test_what_an_item_adds_to_bleu_is_what_sacrebleu_loses_without_it():
    targets = [
        "the big cat sleeps on the old mat", "a dog barks at the moon all night",
        "rain falls on the green hills today", "we all live in a small white house",
    ]  # fmt: skip
    answers = [
        [targets[0], "a dog barks at night", "rain falls on hills today", "we live in a house"],
        ["the big cat", targets[1], "the rain falls on the green hills", targets[3]],
    ]
    metric = METRICS["bleu"]
    table = np.array([metric.statistics(some, targets) for some in answers], dtype=float)
    spread = Spread.of(metric, table[None])

    def bleu(pairs):
        return sacrebleu.corpus_bleu([a for a, _ in pairs], [[t for _, t in pairs]]).score

    scores, adds = anova.jackknife(
        bleu, [list(zip(some, targets, strict=True)) for some in answers]
    )
    np.testing.assert_allclose(spread.scores[0], scores, rtol=1e-9)
    np.testing.assert_allclose(spread.influence[0], adds, rtol=1e-7, atol=1e-7)
    assert np.abs(spread.influence).max() > 5
    low, high = anova.interval((scores, adds))
    np.testing.assert_allclose(spread.interval()[:, 0], [low, high], rtol=1e-7)


class Ratio:
    """A metric of one's own that is no mean."""

    name = "ratio"
    signature = "ratio|sum/sum"

    def statistics(self, answers, targets):
        return np.array([[len(a), len(t)] for a, t in zip(answers, targets, strict=True)], float)

    def score(self, totals):
        return float(totals[0] / totals[1])


def test_what_an_item_adds_to_a_metric_of_ones_own():
    table = np.random.default_rng(2).integers(1, 9, (3, 2, 6, 2)).astype(float)
    spread = Spread.of(Ratio(), table)
    cells = [
        anova.jackknife(lambda rows: sum(r[0] for r in rows) / sum(r[1] for r in rows), rows)
        for rows in table
    ]
    for place, cell in enumerate(cells):
        np.testing.assert_allclose(spread.scores[place], cell[0], rtol=1e-12)
        np.testing.assert_allclose(spread.influence[place], cell[1], atol=1e-12)
        np.testing.assert_allclose(spread.interval(0.8)[:, place], anova.interval(cell, 0.8, cells))


# Analysis of variance.


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_mean_squares_are_those_of_the_textbook(n_seeds):
    """A table of items and seeds, crossed, one number in each place."""
    values = scattered(3, n_seeds, 8)
    spread = Spread.of_means(values)
    for place, table in enumerate(values):
        grand = sum(sum(row) for row in table) / table.size
        rows = [sum(row) / 8 for row in table]
        columns = [sum(table[s][i] for s in range(n_seeds)) / n_seeds for i in range(8)]
        items = n_seeds * sum((c - grand) ** 2 for c in columns) / 7
        seeds = 8 * sum((r - grand) ** 2 for r in rows) / (n_seeds - 1)
        left = sum(
            (table[s][i] - rows[s] - columns[i] + grand) ** 2
            for s, i in product(range(n_seeds), range(8))
        ) / (7 * (n_seeds - 1))  # fmt: skip
        assert spread.items[place] == pytest.approx(items)
        assert spread.seeds[place] == pytest.approx(seeds)
        assert spread.rest[place] == pytest.approx(left)


@pytest.mark.parametrize(("n_seeds", "seed"), [(1, 0.3), (2, 1.0), (2, 0.0), (3, 0.3), (5, 0.0)])
def test_intervals_are_those_of_the_loops(n_seeds, seed):
    values = scattered(2, 3, n_seeds, 7, seed=seed)
    spread = Spread.of_means(values)
    for confidence in (0.95, 0.5):
        found = spread.interval(confidence)
        assert found.shape == (2, 2, 3)
        for i, j in product(range(2), range(3)):
            beside = [anova.of_mean(one) for one in values[i]]
            low, high = anova.interval(beside[j], confidence, beside)
            assert found[:, i, j] == pytest.approx([low, high])
    weights = np.array([[1.0, -1.0, 0.0], [-0.5, -0.5, 1.0]])
    differences = spread.combine(weights)
    assert np.array_equal(spread.combine(weights.tolist()).mean, differences.mean)
    for i, (row, three) in product(range(2), enumerate(weights)):
        cells = [anova.of_mean(one) for one in values[i]]
        beside = [anova.contrast(cells, each) for each in weights]
        low, high = anova.interval(beside[row], beside=beside)
        assert differences.interval()[:, i, row] == pytest.approx([low, high])
        assert differences.mean[i, row] == pytest.approx(three @ values[i].mean(axis=(-2, -1)))


def test_two_seeds_borrow_what_all_cells_tell_of_seeds():
    """A single difference of seeds says next to nothing: its interval may be of any width."""
    spread = Spread.of_means(scattered(32, 2, 64, seed=0.0, item=0.0))
    alone = np.array([spread[[place]].interval() for place in range(32)])[..., 0]
    together = spread.interval().T
    assert (together[:, 1] - together[:, 0]).max() < 1.0 < (alone[:, 1] - alone[:, 0]).max()
    assert ((together[:, 0] < 0) & (together[:, 1] > 0)).mean() > 0.85


def test_differences_are_paired():
    """What differs by a constant in every item differs by it surely, however items scatter."""
    values = 100 * scattered(1, 3, 30)
    spread = Spread.of_means(np.concatenate([values, values + 2.0]))
    assert (spread.interval()[1] - spread.interval()[0] > 5).all()
    np.testing.assert_allclose(spread.combine(np.array([[-1.0, 1.0]])).interval(), 2, atol=1e-9)


SCATTER = {
    1: ({"seed": 0.0, "rest": 0.0}, {"seed": 0.0}, {"item": 0.0, "seed": 0.0}),
    3: ({"seed": 0.15}, {"seed": 0.3}, {"item": 0.3, "seed": 0.5}, {"seed": 0.0, "rest": 0.3}),
    5: ({"seed": 0.15}, {"seed": 0.5}, {"item": 0.3, "seed": 0.3}, {"seed": 0.0, "rest": 0.3}),
}


@pytest.mark.parametrize("n_seeds", SCATTER)
def test_intervals_cover_the_truth(n_seeds):
    """Of 1200 experiments of 64 items each: the mean of a cell, and the difference of two.

    Of three seeds that differ much, two degrees of freedom are told from more by chance: .925.
    """
    least = 0.915 if n_seeds == 3 else 0.93
    for place, variances in enumerate(SCATTER[n_seeds]):
        generator = np.random.default_rng([n_seeds, place])
        values = np.stack(
            [scattered(2, n_seeds, 64, generator=generator, **variances) for _ in range(1200)]
        )
        spread = Spread.of_means(values)
        for found in (spread[:, 0], spread.combine(np.array([[1.0, -1.0]]))[:, 0]):
            low, high = found.interval()
            covered = float(((low <= 0) & (high >= 0)).mean())
            assert least <= covered <= 0.97, (variances, covered)


def test_the_variance_is_the_truth_on_average():
    """Of 4000 experiments: what items do differently under each seed is counted once."""
    normal = np.random.default_rng(6).standard_normal
    values = 0.2 * normal((4000, 1, 64)) + 0.3 * normal((4000, 5, 1)) + normal((4000, 5, 64))
    found = Spread.of_means(values).variance.value.mean()
    truth = 0.2**2 / 64 + 0.3**2 / 5 + 1 / (5 * 64)
    assert found == pytest.approx(truth, rel=0.05)


def test_one_seed_says_nothing_of_seeds():
    values = scattered(900, 1, 64, seed=0.0)
    moved = values + np.random.default_rng(0).standard_normal((900, 1, 1))
    one, other = (Spread.of_means(some).interval() for some in (values, moved))
    np.testing.assert_allclose(one[1] - one[0], other[1] - other[0])
    assert ((other[0] <= 0) & (other[1] >= 0)).mean() < 0.4, "as the result's words say"
    three = scattered(900, 3, 64, seed=0.0)
    low, high = Spread.of_means(three + np.array([[-1.0], [0.0], [1.0]])).interval()
    narrow = Spread.of_means(three).interval()
    assert (high - low > 4 * (narrow[1] - narrow[0])).all()


# Cells that were drawn from more.


@pytest.mark.parametrize(("n_cells", "n_seeds"), [(1, 3), (2, 1), (5, 3)])
@pytest.mark.parametrize("between", [0.0, 2.0])
def test_the_variance_of_drawn_cells_is_that_of_the_loops(n_cells, n_seeds, between):
    levels = between * np.random.default_rng(5).standard_normal((2, n_cells, 1, 1))
    values = scattered(2, n_cells, n_seeds, 6) + levels
    spread = Spread.of_means(values)
    middle = spread.combine(np.full((1, n_cells), 1 / n_cells))[:, 0]
    found = (middle.variance + spread.cell_variance).interval(middle.mean, 0.9)
    for i in range(2):
        cells = [anova.of_mean(one) for one in values[i]]
        assert found[:, i] == pytest.approx(anova.over_drawn(cells, confidence=0.9))


@pytest.mark.parametrize("n_cells", [5, 19])
@pytest.mark.parametrize("between", [0.0, 0.2])
def test_intervals_cover_the_mean_of_the_cells_that_could_be_drawn(n_cells, between):
    """Of 800 experiments of 32 items and 3 seeds: that mean, and what another cell lacks of it."""
    generator = np.random.default_rng(n_cells)
    size = (n_cells + 1, 3, 32)
    values = np.stack(
        [scattered(*size, item=0.4, seed=0.1, rest=0.3, generator=generator) for _ in range(800)]
    )
    values[:, 1:] += between * generator.standard_normal((800, n_cells, 1, 1))
    spread = Spread.of_means(values)
    drawn = spread[:, 1:].cell_variance
    for own in (0.0, -1.0):
        weights = np.array([[own, *[1 / n_cells] * n_cells]])
        found = spread.combine(weights)[:, 0]
        low, high = (found.variance + drawn).interval(found.mean, 0.95)
        assert 0.93 <= ((low <= 0) & (high >= 0)).mean() <= 0.98, own


# Covariances and draws.


def covariance_by_loops(values):
    """Of the means of cells [cell][seed][item], pair by pair."""
    cells, (n_seeds, n_items) = [anova.of_mean(one) for one in values], values.shape[1:]
    own = [anova.products(cell, cell) for cell in cells]
    seeds, rest = sum(o[1] for o in own), sum(o[2] for o in own)
    share = max(0.0, seeds / rest - 1) if n_seeds > 1 else 0.0
    table = np.zeros((len(cells), len(cells)))
    for a, b in product(range(len(cells)), repeat=2):
        items, _, left = anova.products(cells[a], cells[b])
        table[a, b] = (items + share * left) / (n_items * n_seeds)
    return table


@pytest.mark.parametrize(("n_seeds", "seed"), [(1, 0.3), (3, 0.5), (4, 0.0)])
def test_the_covariance_is_that_of_the_loops(n_seeds, seed):
    values = scattered(2, 4, n_seeds, 10, seed=seed)
    spread = Spread.of_means(values)
    for i in range(2):
        wanted = covariance_by_loops(values[i])
        np.testing.assert_allclose(spread.covariance()[i], wanted, atol=1e-12)
        np.testing.assert_allclose(spread[i].covariance_of(10, n_seeds), wanted, atol=1e-12)
        share = np.float64(0.7)
        more = spread[i].covariance_of(10, n_seeds, np.asarray(share))
        np.testing.assert_allclose(more, spread[i].covariance(np.asarray(share)), atol=1e-12)


def test_the_covariance_of_other_numbers_is_what_they_would_give():
    """Means over 500 experiments, against what each part of the scatter does to a mean."""
    generator = np.random.default_rng(8)
    made = [
        Spread.of_means(scattered(2, 3, 40, item=0.6, seed=0.4, rest=0.5, generator=generator))
        for _ in range(500)
    ]
    for n_items, n_seeds in ((40, 3), (400, 3), (10, 1), (100, 12)):
        found = np.mean([spread.covariance_of(n_items, n_seeds) for spread in made], axis=0)
        shared = (0.36 / n_items + 0.16 / n_seeds) / 2
        own = 2 * shared + 0.25 / (n_items * n_seeds)
        assert np.diag(found) == pytest.approx([own, own], rel=0.12), (n_items, n_seeds)
    single = Spread.of_means(scattered(2, 1, 40))
    np.testing.assert_allclose(single.covariance_of(80, 5), single.covariance() / 2)


@pytest.mark.parametrize(("n_seeds", "seed"), [(1, 0.3), (3, 0.6)])
def test_draws_scatter_as_the_covariance_says(n_seeds, seed):
    values = scattered(3, n_seeds, 12, seed=seed)
    spread = Spread.of_means(values)
    drawn = spread.draws(60_000, 4)
    np.testing.assert_allclose(drawn.mean(axis=0), spread.mean, atol=0.01)
    heavy = 11 / 9  # the variance of a t with 11 degrees of freedom
    scale = np.abs(spread.covariance()).max()
    np.testing.assert_allclose(np.cov(drawn.T), heavy * spread.covariance(), atol=0.05 * scale)
    lonely = spread[0].draws(60_000, 4)
    assert lonely.shape == (60_000,) and lonely.var() > 0


def test_the_same_seed_draws_the_same_items():
    values = scattered(2, 3, 10)
    one, shifted = Spread.of_means(values), Spread.of_means(values + 3.0)
    assert np.array_equal(one.draws(50, 1), one.draws(50, 1))
    assert not np.array_equal(one.draws(50, 1), one.draws(50, 2))
    np.testing.assert_allclose(shifted.draws(50, 1) - one.draws(50, 1), 3.0, atol=1e-12)
    by_item = Spread.of_means(np.repeat(values.mean(axis=1, keepdims=True), 3, axis=1))
    fewer = Spread.of_means(values.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(by_item.draws(50, 1), fewer.draws(50, 1), atol=1e-12)
    none, other = (one.noise(50, 1, np.zeros(()), rest_seed=s) for s in (None, 7))
    assert np.array_equal(none, other), "items are drawn by the seed alone"
    share = np.asarray(2.0)
    assert not np.allclose(one.noise(50, 1, share), one.noise(50, 1, share, rest_seed=7))


@pytest.mark.parametrize("confidence", [0.95, 0.9, 0.5])
def test_percentiles_leave_half_of_the_rest_at_each_end(confidence):
    samples = np.random.default_rng(0).permutation(np.arange(1001.0))[:, None] * [1.0, -2.0]
    low, high = percentiles(samples, confidence)
    tail = 1000 * (1 - confidence) / 2
    np.testing.assert_allclose(low, [tail, -2 * (1000 - tail)])
    np.testing.assert_allclose(high, [1000 - tail, -2 * tail])


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=30),
    st.integers(0, 7),
    st.sampled_from([0.5, 0.8, 0.9, 0.95]),
)
def test_the_shortest_range_is_that_of_all_ranges(places, holds, confidence):
    def inside(low, high):
        return sum(low <= place <= high for place in places)

    least, most = min([*places, holds]), max([*places, holds])
    ranges = [
        (high - low, -inside(low, high), low, high)
        for low in range(least, holds + 1)
        for high in range(holds, most + 1)
        if inside(low, high) >= confidence * len(places) - 1e-9
    ]
    assert shortest(np.array(places), holds, confidence) == min(ranges)[2:]


# What is too little, and what is wrong.


def test_one_item_says_nothing():
    for spread in (
        Spread.of_means(np.zeros((2, 3, 1))), Spread.of(MEAN, np.ones((2, 3, 1, 2))),
        Spread.of(METRICS["bleu"], METRICS["bleu"].statistics(["a b"], ["a b c"])[None, None]),
    ):  # fmt: skip
        assert spread.n_items == 1 and np.isfinite(spread.mean).all()
        assert np.isnan(spread.interval()).all() and np.isnan(spread.draws(4, 0)).all()
        assert np.isnan(spread.combine(np.ones((1, len(spread.mean)))).interval()).all()


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
def test_what_does_not_scatter_has_no_width(n_seeds):
    spread = Spread.of_means(np.full((2, n_seeds, 5), 0.5))
    assert (spread.interval() == 0.5).all() and (spread.draws(9, 0) == 0.5).all()
    assert (spread.covariance() == 0).all() and spread.cell_variance.value == 0
    zeros = Spread.of(METRICS["bleu"], np.zeros((1, n_seeds, 4, 10)))
    assert (zeros.interval() == 0).all()


def test_two_seeds_that_differ_leave_much_open():
    """One degree of freedom: the interval reaches 12.7 standard errors to each side."""
    values = np.zeros((1, 2, 30)) + np.array([[0.0], [1.0]])
    assert Spread.of_means(values).interval()[:, 0] == pytest.approx([-5.8531, 6.8531], abs=1e-4)


def test_cells_are_those_of_an_array_of_cells():
    values = scattered(2, 4, 3, 5)
    spread = Spread.of_means(values)
    assert (spread.n_seeds, spread.n_items) == (3, 5)
    for cells in (0, (1, 2), slice(None), (..., -1), (slice(None), [3, 0]), [1]):
        some, wanted = spread[cells], Spread.of_means(values)
        shape = np.arange(8).reshape(2, 4)[cells]
        np.testing.assert_array_equal(some.mean, wanted.mean.ravel()[shape])
        assert some.influence.shape == (*np.shape(shape), 3, 5)
        np.testing.assert_allclose(some.interval(), spread.interval().reshape(2, -1)[:, shape])
    for cells in (2, (0, 0, 0), "x", [[1, [2]]], 0.5):
        with pytest.raises(ResultError, match=r"^cells is .*: expected what indexes an array of"):
            spread[cells]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda spread: spread.interval(95.0), "confidence is 95.0"),
        (lambda spread: spread.combine(np.ones((1, 3))), "weights is .*: expected rows of 2"),
        (lambda spread: spread.combine([[1.0, np.nan]]), "weights is .*: expected rows of 2"),
        (lambda spread: spread[0].combine(np.ones((1, 3))), "weights is .*: expected rows of 0"),
        (lambda spread: spread.draws(0, 0), "n_draws is 0"),
        (lambda spread: spread.draws(5, -1), "seed is -1"),
    ],
)
def test_bad_arguments_are_refused(ask, message):
    with pytest.raises(ResultError, match=f"^{message}"):
        ask(Spread.of_means(scattered(2, 3, 5)))


# Intervals of results.


@pytest.mark.parametrize("options", [{}, {"confidence": 0.6}])
def test_every_interval_of_a_location_has_the_level_that_was_asked_for(options):
    confidence = options.get("confidence", 0.95)
    result = result_of(
        [[0, 0.1, 0.5, 0.97, 1.0], [0.2, 0.3, 0.4, 0.5, 0.9]], 0.8, n_items=24, n_seeds=3
    )
    for values, found in zip(
        result.item_scores.numpy(), icl.locate(result, **options), strict=True
    ):
        assert found.confidence == confidence and found.n_resamples == 1000
        cells = [anova.of_mean(layer) for layer in values]
        worth = anova.interval(anova.contrast(cells, [-1, 0, 0, 0, 1]), confidence)
        assert found.effect[1:] == pytest.approx(worth)
        for layer, cell in enumerate(cells):
            wanted = anova.interval(cell, confidence)
            assert found.score_interval[:, layer].tolist() == pytest.approx(wanted)
        assert found.effect[1] < found.effect[0] < found.effect[2], "difference, low, high"


def losses_of(curve, noise=0.0, **options):
    """A sweep that masked single layers."""
    return replace(result_of([curve], noise, **options), provenance={"scope": "only"})


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_the_interval_of_importance_is_of_the_loss_on_the_same_items_and_seeds(confidence):
    result = losses_of([0.2, 0.9, 0.5, 1.0], 0.5, n_items=24, n_seeds=3)
    (found,) = layer_importance(result, confidence=confidence)
    cells = [anova.of_mean(layer) for layer in result.item_scores.numpy()[0]]
    for layer in range(3):
        lost = anova.contrast([cells[3], cells[layer]], [1, -1])
        assert found.interval[:, layer].tolist() == pytest.approx(anova.interval(lost, confidence))
    assert (found.interval[0] < found.loss).all() and (found.loss < found.interval[1]).all()
    assert found.confidence == confidence
    assert layer_importance(result)[0].confidence == 0.95


def test_critical_layers_are_those_whose_loss_is_surely_above_nothing():
    sure = layer_importance(losses_of([0.5, 0.2, 1.0, 1.0, 1.0]))[0]
    assert sure.critical == (1, 0), "a loss of 0 is none"
    assert sure.ceiling == 1.0 and sure.loss.tolist() == pytest.approx([0.5, 0.8, 0.0, 0.0])
    few = np.zeros((1, 2, 2, 20))
    few[0, 1, :, :2] = 1.0  # two items of twenty, which others need not have
    found = layer_importance(result_with(few, scope="only"))[0]
    assert found.loss[0] == pytest.approx(0.1) and found.interval[0, 0] < 0
    assert found.critical == ()


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.5, 95.0])
def test_a_confidence_is_a_share(confidence):
    for function, result in (
        (icl.locate, result_of([[0, 1.0]])),
        (layer_importance, losses_of([0, 1.0])),
    ):
        with pytest.raises(ResultError, match=f"confidence is {confidence}"):
            function(result, confidence=confidence)


def test_one_item_is_never_beyond_doubt():
    found = layer_importance(losses_of([0.0, 1.0], n_items=1))[0]
    assert found.loss.tolist() == [1.0] and found.interval.isnan().all() and found.critical == ()
    assert layer_importance(losses_of([0.0, 1.0], n_items=2))[0].critical == (0,)


def letters(answer, target):
    return float(len(answer))


@pytest.mark.parametrize("kind", ["heads", "savings"])
def test_intervals_that_are_stored_are_of_95_percent(kind):
    model, task = tiny.boot("llama"), icl.load_task("pseudo-translation")
    options = {"n_shots": 1, "n_queries": 4, "max_new_tokens": 3}
    if kind == "heads":
        found = icl.HeadStudy(model, task, metric="log_prob", **options).nested([(0, 0), (1, 1)])
        values = found.statistics.numpy()[..., 0]
    else:
        found = measure_savings(model, task, [1], repeats=1, metric=letters, **options)
        values = found.statistics.numpy()[:, None, :, 0]
    assert values.std(axis=-1).max() > 0
    for place, cell in enumerate(values):
        low, high = anova.interval(anova.of_mean(cell))
        assert found.interval[:, place].tolist() == pytest.approx([low, high])


def test_noise_that_few_items_tell_has_their_tails():
    found = draw(np.diag([1.0, 4.0]), n_items=5, n_draws=40_000, seed=0)
    assert np.quantile(found, 0.975, axis=0) == pytest.approx([2.776, 2 * 2.776], rel=0.04)
