"""The paired bootstrap: one draw for all cells, and percentiles at the level that was asked for."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from test_locate import result_of, result_with

import icl_locate as icl
from icl_locate.errors import ResultError
from icl_locate.masking.importance import layer_importance
from icl_locate.metrics import METRICS
from icl_locate.savings import measure
from icl_locate.studies import result as measured
from icl_locate.studies.intervals import bootstrap_scores, percentile_interval

MEAN = METRICS["exact_match"]


def statistics_of(values):
    """The statistics of a mean over items, of Float[cell, seed, item]."""
    return np.stack([values, np.ones_like(values)], axis=-1)


def test_all_cells_draw_the_same_items_and_seeds():
    """Cells that differ by a number for all items differ by that number in every resample."""
    generator = np.random.default_rng(3)
    items = 100 * generator.normal(size=(2, 3, 30))  # kind of cell, seed, item
    shifts = np.arange(8.0).reshape(2, 4)
    values = items[None, None] + shifts[:, :, None, None, None]  # condition, layer, kind, ...
    drawn = bootstrap_scores(MEAN, statistics_of(values), 60, seed=0)
    assert drawn.shape == (60, 2, 4, 2)
    np.testing.assert_allclose(drawn, drawn[:, :1, :1] + shifts[..., None], atol=1e-9)
    assert drawn[:, 0, 0].std(axis=0).min() > 5, "each resample draws anew"
    assert len(np.unique(drawn[:, 0, 0, 0])) == 60


def test_items_and_seeds_are_both_drawn_with_replacement():
    """Where only seeds differ, a resample is a mean of drawn seeds; else one of drawn items."""
    by_seed = np.broadcast_to(np.array([0.0, 1.0, 10.0])[:, None], (3, 50))
    by_item = np.broadcast_to(np.array([0.0, 1.0, 10.0, 100.0]), (3, 4))
    for values, axis, n in ((by_seed, [0.0, 1.0, 10.0], 3), (by_item, [0.0, 1.0, 10.0, 100.0], 4)):
        drawn = bootstrap_scores(MEAN, statistics_of(values), 1500, seed=1)
        counts = np.stack(np.meshgrid(*[np.arange(n + 1)] * n), axis=-1).reshape(-1, n)
        possible = counts[counts.sum(axis=1) == n] @ np.array(axis) / n
        assert np.isclose(drawn[:, None], possible, atol=1e-9).any(axis=1).all()
        assert np.isclose(drawn, max(axis)).mean() == pytest.approx(n**-n, abs=0.015)
        assert drawn.mean() == pytest.approx(np.mean(axis), rel=0.05)


@pytest.mark.parametrize("confidence", [0.95, 0.9, 0.5])
def test_a_percentile_interval_leaves_half_of_the_rest_at_each_end(confidence):
    samples = np.random.default_rng(0).permutation(np.arange(1001.0))[:, None] * [1.0, -2.0]
    low, high = percentile_interval(samples, confidence, 2)
    tail = 1000 * (1 - confidence) / 2
    np.testing.assert_allclose(low, [tail, -2 * (1000 - tail)])
    np.testing.assert_allclose(high, [1000 - tail, -2 * tail])
    assert np.isnan(percentile_interval(samples, confidence, 1)).all(), "one item: nothing to draw"


@pytest.mark.parametrize("options", [{}, {"confidence": 0.6}])
def test_every_interval_of_a_location_has_the_level_that_was_asked_for(options):
    confidence = options.get("confidence", 0.95)
    result = result_of([[0, 0.1, 0.5, 0.97, 1.0], [0.2, 0.3, 0.4, 0.5, 0.9]], 0.8, n_items=24)
    samples = np.sort(result.resampled(1000, seed=0), axis=0)
    differences = result.resampled(1000, seed=0)
    differences = np.sort(differences[..., -1] - differences[..., 0], axis=0)
    n_out = (1 - confidence) / 2 * 999
    for i, found in enumerate(icl.locate(result, **options)):
        assert found.confidence == confidence and found.n_resamples == 1000
        for (low, high), ordered in (
            (found.effect[1:], differences[:, i]),
            (found.score_interval[:, 2].tolist(), samples[:, i, 2]),
        ):
            assert ordered[int(n_out)] <= low <= ordered[int(n_out) + 1]
            assert ordered[998 - int(n_out)] <= high <= ordered[999 - int(n_out)]
        assert found.effect[1] < found.effect[0] < found.effect[2], "difference, low, high"
        assert (found.score_interval[0] < found.scores).all(), "row 0 is low"
        assert (found.score_interval[1] > found.scores).all(), "row 1 is high"


def losses_of(curve, noise=0.0, **options):
    """A sweep that masked single layers."""
    return replace(result_of([curve], noise, **options), provenance={"scope": "only"})


def test_the_interval_of_importance_is_of_the_loss_against_each_resamples_own_ceiling():
    result = losses_of([0.2, 0.9, 0.5, 1.0], 0.5, n_items=24)
    found = layer_importance(result)[0]
    samples = result.resampled(1000, seed=0)[:, 0]
    expected = np.percentile(samples[:, 3:] - samples[:, :3], [2.5, 97.5], axis=0)
    np.testing.assert_allclose(found.interval.numpy(), expected)
    assert (found.interval[0] < found.loss).all() and (found.loss < found.interval[1]).all()
    assert found.confidence == 0.95
    narrow = layer_importance(result, confidence=0.5, n_resamples=300, seed=2)[0]
    samples = result.resampled(300, seed=2)[:, 0]
    expected = np.percentile(samples[:, 3:] - samples[:, :3], [25, 75], axis=0)
    np.testing.assert_allclose(narrow.interval.numpy(), expected)


def test_critical_layers_are_those_whose_loss_is_surely_above_nothing():
    sure = layer_importance(losses_of([0.5, 0.2, 1.0, 1.0, 1.0]))[0]
    assert sure.critical == (1, 0), "a loss of 0 is none"
    assert sure.ceiling == 1.0 and sure.loss.tolist() == pytest.approx([0.5, 0.8, 0.0, 0.0])
    few = np.zeros((1, 2, 2, 20))
    few[0, 1, :, :2] = 1.0  # two items of twenty: a tenth of the resamples draw neither
    found = layer_importance(result_with(few, scope="only"))[0]
    assert found.loss[0] == pytest.approx(0.1) and found.interval[0, 0] == 0
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


@pytest.mark.parametrize("module", [measured, measure])
def test_intervals_that_are_stored_are_of_95_percent(module, monkeypatch):
    asked = []

    def interval(samples, confidence, n_items):
        asked.append((len(samples), confidence, n_items))
        return percentile_interval(samples, confidence, n_items)

    monkeypatch.setattr(module, "percentile_interval", interval)
    model, task = tiny.boot("llama"), icl.load_task("pseudo-translation")
    options = {"n_shots": 1, "n_queries": 2, "max_new_tokens": 1}
    if module is measured:
        _ = icl.HeadStudy(model, task, **options).nested([(0, 0)]).interval
    else:
        measure.measure_savings(model, task, [1], repeats=1, **options)
    assert asked == [(1000, 0.95, 2)]
