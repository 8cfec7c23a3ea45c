"""What sweeps of other sizes may be expected to find, against such sweeps themselves."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import Simulated, result_of

import icl_locate as icl
from icl_locate.errors import ResultError

PILOT = Simulated(n_items=32, ceiling=0.4)


@pytest.fixture(scope="module")
def pilots():
    """Eight pilots, as the conditions of one result."""
    return PILOT.result(8, seed=5)


def found_by(simulated):
    """The mean width that sweeps of this size really have, and the share that is resolved."""
    located = icl.locate(simulated.result(50, seed=9), n_resamples=200)
    rising = [found for found in located if found.layer is not None]
    widths = [found.interval[1] - found.interval[0] for found in rising]
    return np.mean(widths), np.mean([found.verdict != "not resolved" for found in rising])


@pytest.mark.parametrize(("n_items", "n_seeds"), [(32, 3), (64, 3), (64, 1), (32, 5)])
def test_what_is_expected_is_what_is_found(pilots, n_items, n_seeds):
    expected = icl.plan(pilots, n_queries=n_items, n_seeds=n_seeds, n_resamples=200)
    assert [(each.n_items, each.n_seeds) for each in expected] == 8 * [(n_items, n_seeds)]
    width, resolved = found_by(replace(PILOT, n_items=n_items, n_seeds=n_seeds))
    assert np.mean([each.width for each in expected]) == pytest.approx(width, rel=0.25)
    assert np.mean([each.resolved for each in expected]) == pytest.approx(resolved, abs=0.15)


def test_what_seeds_do_is_expected_of_more_seeds_and_not_known_of_one():
    """Seeds differ much: three tell so, and one looks as sure as where they do not differ."""
    differ = replace(PILOT, n_items=64, ceiling=0.7, seed_by_layer=0.15)
    expected = icl.plan(differ.result(6, seed=1), n_queries=64, n_seeds=(1, 3), n_resamples=100)
    for n_seeds in (1, 3):
        mine = [each.width for each in expected if each.n_seeds == n_seeds]
        width, _ = found_by(replace(differ, n_seeds=n_seeds))
        assert np.mean(mine) == pytest.approx(width, rel=0.25)
    many = icl.plan(differ.result(6, seed=1), n_queries=256, n_seeds=1, n_resamples=100)
    assert np.mean([each.width for each in many]) < 10.5, "of many items one seed seems to tell"


def test_more_items_and_more_seeds_make_intervals_shorter(pilots):
    expected = icl.plan(pilots, n_resamples=200)
    names = [(each.condition, each.n_seeds, each.n_items) for each in expected]
    assert names == [(c, s, n) for c in pilots.conditions for s in (1, 3, 5) for n in SIZES]
    width = np.array([each.width for each in expected]).reshape(8, 3, 4).mean(axis=0)
    assert (np.diff(width, axis=0) < -0.5).all() and (np.diff(width, axis=1) < -0.5).all()
    resolved = np.array([each.resolved for each in expected]).reshape(8, 3, 4).mean(axis=0)
    assert (np.diff(resolved, axis=1) >= 0).all()
    assert resolved[0, 0] < 0.6 and resolved[-1, -1] > 0.9


def test_of_a_much_larger_sweep_too_much_width_is_expected_rather_than_too_little(pilots):
    expected = icl.plan(pilots, n_queries=256, n_seeds=3, n_resamples=200)
    width, _ = found_by(replace(PILOT, n_items=256))
    assert width < np.mean([each.width for each in expected]) < width + 4


SIZES = (32, 64, 128, 256)


def test_a_pilot_of_one_seed_does_not_tell_how_seeds_differ():
    result = replace(PILOT, n_seeds=1, ceiling=0.7).result(1)
    expected = icl.plan(result, n_resamples=20)
    assert [(each.n_seeds, each.n_items) for each in expected] == [(1, n) for n in SIZES]
    with pytest.raises(ResultError, match=r"n_seeds is \(1, 3\), but the pilot had one seed"):
        icl.plan(result, n_seeds=(1, 3))


def test_only_what_rises_is_expected_to_have_an_interval():
    nothing = Simulated("nothing", 6, 3, n_items=32).statistics(1, seed=0)
    sharp = Simulated("sharp", 6, 3, n_items=32, ceiling=0.95, correlation=1).statistics(1, seed=0)
    both = result_of(np.concatenate([nothing, sharp]))
    (expected,) = icl.plan(both, n_queries=64, n_seeds=3, n_resamples=20)
    assert expected == icl.Expected("c1", 64, 3, 0.0, 1.0)
    assert str(expected) == (
        "c1, 64 items, 3 seeds: interval about 0.0 layers wide, resolved in 100% of sweeps"
    )
    assert "64 items, 1 seed:" in str(replace(expected, n_seeds=1))


def test_a_curve_that_rises_from_below_its_floor_is_planned_from_there():
    """As hiding the examples alone may, where the instructions stay."""
    curve = np.array([0.5, 0, 0, 0, 0.3, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6])
    values = curve[None, :, None, None] + 0.1 * np.random.default_rng(0).normal(size=(1, 11, 2, 32))
    result = result_of(np.stack([values, np.ones_like(values)], axis=-1))
    (found,) = icl.locate(result)
    assert found.base > 0 and found.layer == 6
    (expected,) = icl.plan(result, n_queries=32, n_seeds=2, n_resamples=200)
    assert expected.width < 0.5, "from the floor it would be three layers"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_queries": 1}, "n_queries is 1: expected a whole number from 2"),
        ({"n_queries": ()}, "n_queries is "),
        ({"n_seeds": 0}, "n_seeds is 0"),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"n_resamples": 0}, "n_resamples is 0"),
    ],
)
def test_bad_arguments(pilots, options, message):
    with pytest.raises(ResultError, match=message):
        icl.plan(pilots, **options)


def test_pilots_that_tell_nothing():
    result = PILOT.result(1)
    with pytest.raises(ResultError, match="scope is 'only'"):
        icl.plan(replace(result, provenance={"scope": "only"}))
    with pytest.raises(ResultError, match="a single item"):
        icl.plan(replace(PILOT, n_items=1).result(1))
