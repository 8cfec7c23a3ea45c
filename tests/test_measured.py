"""What every result has: its axes, its intervals by a paired bootstrap, its tables, its files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from saved_kinds import VALUES

from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.studies.result import Measured


@dataclass(frozen=True)
class Ratio:
    """A metric that is no mean: the sum of one column over the sum of the other, in per cent."""

    name: str = "ratio"
    signature: str = "ratio|sum/sum"

    def statistics(self, answers: Any, targets: Any) -> Any:
        return np.array([[len(a), len(t)] for a, t in zip(answers, targets, strict=True)], float)

    def score(self, totals: Any) -> float:
        return float(100 * totals[0] / totals[1])


@dataclass(frozen=True)
class Toy(
    Measured,
    axes={"arm": "arms", "dose": "doses", "seed": "seeds"},
    form="tests.Toy/1",
    tensors=("scores",),
    labels=("arms", "doses", "seeds", "metric", "provenance"),
    later=("statistics",),
):
    """Scores of arms and doses over seeds."""

    arms: tuple[str, ...]
    doses: tuple[int, ...]
    seeds: tuple[int, ...]
    scores: torch.Tensor
    metric: str
    provenance: Mapping[str, Any]
    statistics: torch.Tensor | None = None
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        self._check()


@dataclass(frozen=True)
class Seedless(
    Measured,
    axes={"arm": "arms"},
    form="tests.Seedless/1",
    tensors=("scores", "statistics"),
    labels=("arms", "metric", "provenance"),
):
    """Scores of arms, all of one draw of examples."""

    arms: tuple[str, ...]
    scores: torch.Tensor
    metric: str
    provenance: Mapping[str, Any]
    statistics: torch.Tensor
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        self._check()


ARMS, DOSES, SEEDS, N_ITEMS = ("none", "some"), (0, 3, 9), (4, 1), 7
RECIPE = {"signature": "ratio|sum/sum", "model": "m"}


def draw(*cells):
    """Statistics of the ratio: two columns of whole numbers."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(1, 9, (*cells, N_ITEMS, 2), generator=generator).double()


def ratio_of(statistics):
    return 100 * statistics[..., 0].sum(-1) / statistics[..., 1].sum(-1)


def toy(**changes):
    table = draw(2, 3, 2)
    parts = {
        "arms": ARMS, "doses": DOSES, "seeds": SEEDS, "scores": ratio_of(table), "metric": "ratio",
        "provenance": RECIPE, "statistics": table, "custom_metric": Ratio(),
    }  # fmt: skip
    return Toy(**parts | changes)


def seedless(**changes):
    table = draw(2)
    parts = {
        "arms": ARMS, "scores": ratio_of(table), "metric": "ratio", "provenance": RECIPE,
        "statistics": table, "custom_metric": Ratio(),
    }  # fmt: skip
    return Seedless(**parts | changes)


# Intervals.


def naive_bootstrap(statistics, n_resamples, seed):
    """Cell by cell, item by item: the same draws of items and seeds for every cell."""
    generator = np.random.default_rng(seed)
    n_arms, n_doses, n_seeds, n_items, _ = statistics.shape
    drawn_items = generator.multinomial(n_items, [1 / n_items] * n_items, n_resamples)
    drawn_seeds = generator.multinomial(n_seeds, [1 / n_seeds] * n_seeds, n_resamples)
    found = np.zeros((n_resamples, n_arms, n_doses))
    for r in range(n_resamples):
        for arm in range(n_arms):
            for dose in range(n_doses):
                scores = []
                for s in range(n_seeds):
                    above = below = 0.0
                    for item in range(n_items):
                        for _ in range(drawn_items[r, item]):
                            above += float(statistics[arm, dose, s, item, 0])
                            below += float(statistics[arm, dose, s, item, 1])
                    scores += [100 * above / below] * int(drawn_seeds[r, s])
                found[r, arm, dose] = sum(scores) / len(scores)
    return found


def percentile(values, share):
    """By hand: between the two neighbours of a place in the order."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize(("confidence", "seed"), [(0.95, 0), (0.5, 7)])
def test_the_interval_is_that_of_a_naive_paired_bootstrap(confidence, seed):
    result, n = toy(), 60
    samples = naive_bootstrap(result.statistics.numpy(), n, seed)
    np.testing.assert_allclose(result.resampled(n, seed), samples, rtol=1e-12)
    interval = result.score_interval(confidence, n_resamples=n, seed=seed)
    assert interval.shape == (2, 2, 3)
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    for bound, share in enumerate(tails):
        for arm in range(2):
            for dose in range(3):
                wanted = percentile(samples[:, arm, dose], share)
                assert interval[bound, arm, dose].item() == pytest.approx(wanted, rel=1e-12)


def test_without_an_axis_of_seeds_items_alone_are_drawn():
    result, n = seedless(), 40
    samples = naive_bootstrap(result.statistics.numpy()[:, None, None], n, 2)[:, :, 0]
    np.testing.assert_allclose(result.resampled(n, 2), samples, rtol=1e-12)
    assert result.score_interval(n_resamples=n).shape == (2, 2)


def test_draws_are_paired():
    """What differs by a constant in every item differs by it in every resample."""
    table = torch.stack([torch.arange(7.0), torch.ones(7)], dim=-1).double()
    both = torch.stack([table, table + torch.tensor([2.0, 0.0])])
    mean = seedless(statistics=both, scores=ratio_of(both))
    samples = mean.resampled(50, 0)
    np.testing.assert_allclose(samples[:, 1] - samples[:, 0], 200, rtol=1e-12)
    assert samples[:, 0].std() > 0


def test_a_seed_draws_the_same_again_and_no_other():
    result = toy()
    one, again, other = (result.score_interval(n_resamples=30, seed=s) for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    wide, narrow = (result.score_interval(c, n_resamples=200) for c in (0.95, 0.5))
    assert (wide[0] <= narrow[0]).all() and (narrow[1] <= wide[1]).all()


def test_a_single_item_has_no_interval():
    table = draw(2, 3, 2)[..., :1, :]
    result = toy(statistics=table, scores=ratio_of(table))
    assert result.n_items == 1
    assert result.score_interval(n_resamples=5).isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 95.0}, "confidence is 95"),
        ({"confidence": 0.0}, "confidence is 0"),
        ({"n_resamples": 0}, "n_resamples is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ResultError, match=message):
        toy().score_interval(**options)


# Axes and tables.


def test_axes_are_the_labels_in_their_order():
    result = toy()
    assert result.axes == {"arm": list(ARMS), "dose": list(DOSES), "seed": list(SEEDS)}
    assert list(result.axes) == ["arm", "dose", "seed"]
    assert result.n_items == N_ITEMS
    assert toy(arms=list(ARMS)).arms == ARMS, "lists become tuples"


def test_xarray_is_labelled():
    result = toy()
    data = result.to_xarray()
    assert data["score"].dims == ("arm", "dose", "seed")
    for i, arm in enumerate(ARMS):
        for j, dose in enumerate(DOSES):
            for k, seed in enumerate(SEEDS):
                cell = data["score"].sel(arm=arm, dose=dose, seed=seed).item()
                assert cell == result.scores[i, j, k].item()
    assert data.attrs == {"metric": "ratio", "signature": "ratio|sum/sum"}
    assert toy(provenance={}).to_xarray().attrs["signature"] == ""


def test_the_table_has_a_row_for_each_cell():
    result = toy()
    frame = result.to_dataframe()
    assert list(frame.columns) == ["arm", "dose", "seed", "score"]
    expected = [
        (arm, dose, seed, result.scores[i, j, k].item())
        for i, arm in enumerate(ARMS)
        for j, dose in enumerate(DOSES)
        for k, seed in enumerate(SEEDS)
    ]
    assert [tuple(row) for row in frame.itertuples(index=False)] == expected


# What does not fit, and files.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(2, 3)}, r"scores has the shape \(2, 3\): expected \(2, 3, 2\)"),
        ({"doses": (0, 3)}, r"scores has the shape \(2, 3, 2\): expected \(2, 2, 2\)"),
        ({"scores": torch.full((2, 3, 2), torch.nan)}, "scores holds NaN"),
        ({"scores": torch.zeros(2, 3, 2, dtype=torch.long)}, "scores is of torch.int64"),
        ({"statistics": draw(2, 3, 1)}, "statistics has the shape"),
        ({"statistics": draw(2, 3, 2)[..., 0]}, "statistics has the shape"),
        ({"custom_metric": None, "metric": "bleu"}, "statistics has 2 columns: expected the 10"),
        ({"custom_metric": None, "metric": "exact_match"}, "no count of 'exact_match'"),
        ({"provenance": None}, "provenance is None"),
        ({"provenance": {1: 2}}, "provenance is"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    if change.get("metric") == "exact_match":
        change = {**change, "statistics": draw(2, 3, 2) + 0.5}
    with pytest.raises(ResultError, match=message):
        toy(**change)


def test_a_file_has_all_but_the_metric_of_ones_own(tmp_path):
    result = toy()
    again = Toy.load(result.save(tmp_path / "toy"))
    assert again.axes == result.axes and again.scores.equal(result.scores)
    assert again.statistics.equal(result.statistics) and dict(again.provenance) == RECIPE
    with pytest.raises(ResultError, match="'ratio' is not part of icl_locate.*custom_metric with"):
        again.score_interval()
    known = replace(again, custom_metric=Ratio())
    assert known.score_interval(n_resamples=9).equal(result.score_interval(n_resamples=9))


def test_means_of_ones_own_are_known_again(tmp_path):
    table = torch.stack([draw(2, 3, 2)[..., 0], torch.ones(2, 3, 2, N_ITEMS)], dim=-1).double()
    scores = table[..., 0].mean(-1)
    mine = toy(
        statistics=table, scores=scores, custom_metric=None, metric="mine",
        provenance={"metric_is_mean": True},
    )  # fmt: skip
    again = Toy.load(mine.save(tmp_path / "toy"))
    low, high = again.score_interval(n_resamples=50)
    assert (low <= scores.mean(-1)).all() and (scores.mean(-1) <= high).all()


def test_a_file_of_an_earlier_version_without_statistics_says_so(tmp_path):
    old = Toy.load(toy(statistics=None).save(tmp_path / "old"))
    assert old.statistics is None and old.scores.equal(toy().scores)
    assert len(old.to_dataframe()) == 12 and old.to_xarray()["score"].shape == (2, 3, 2)
    words = "earlier version holds no statistics of single items: there is no interval; run again"
    for ask in (lambda: old.score_interval(), lambda: old.resampled(5, 0), lambda: old.n_items):
        with pytest.raises(ResultError, match=words):
            ask()


@pytest.mark.parametrize("kind", ["gates", "savings"])
def test_so_do_the_kinds_that_once_had_none(kind):
    assert VALUES[kind].statistics is None
    with pytest.raises(ResultError, match="holds no statistics of single items"):
        VALUES[kind].score_interval()
