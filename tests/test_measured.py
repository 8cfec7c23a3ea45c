"""What every result has: its axes, its intervals, its tables, its files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import anova
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


def ratio_by_loops(rows):
    return 100 * sum(float(row[0]) for row in rows) / sum(float(row[1]) for row in rows)


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_the_interval_is_that_of_the_loops(confidence):
    result = toy()
    interval = result.score_interval(confidence)
    assert interval.shape == (2, 2, 3)
    if confidence == 0.95:
        assert torch.equal(interval, result.score_interval())
    for arm in range(2):
        cells = [
            anova.jackknife(ratio_by_loops, table) for table in result.statistics[arm].tolist()
        ]
        for dose, cell in enumerate(cells):
            low, high = anova.interval(cell, confidence, cells)
            assert interval[:, arm, dose].tolist() == pytest.approx([low, high], rel=1e-9)


def test_without_an_axis_of_seeds_the_scatter_is_of_items():
    result = seedless()
    interval = result.score_interval()
    assert interval.shape == (2, 2)
    for arm in range(2):
        cell = anova.jackknife(ratio_by_loops, [result.statistics[arm].tolist()])
        assert interval[:, arm].tolist() == pytest.approx(anova.interval(cell), rel=1e-9)


def test_the_spread_has_the_axes_of_the_scores_and_is_paired():
    """What differs by a constant in every item differs by it surely."""
    table = torch.stack([torch.arange(7.0), torch.ones(7)], dim=-1).double()
    both = torch.stack([table, table + torch.tensor([2.0, 0.0])])
    spread = seedless(statistics=both, scores=ratio_of(both)).spread()
    assert spread.mean.tolist() == [300, 500] and (spread.n_seeds, spread.n_items) == (1, 7)
    low, high = spread.interval()
    assert (high - low > 100).all()
    np.testing.assert_allclose(spread.combine(np.array([[-1.0, 1.0]])).interval(), 200)
    assert toy().spread().mean.shape == (2, 3)


def test_more_confidence_takes_a_wider_interval():
    wide, narrow = (toy().score_interval(confidence) for confidence in (0.95, 0.5))
    assert (wide[0] < narrow[0]).all() and (narrow[1] < wide[1]).all()


def test_a_single_item_has_no_interval():
    table = draw(2, 3, 2)[..., :1, :]
    result = toy(statistics=table, scores=ratio_of(table))
    assert result.n_items == 1
    assert result.score_interval().isnan().all()


@pytest.mark.parametrize("confidence", [95.0, 0.0])
def test_bad_arguments_are_refused(confidence):
    with pytest.raises(ResultError, match=f"confidence is {confidence:g}"):
        toy().score_interval(confidence)


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
    assert known.score_interval().equal(result.score_interval())


def test_means_of_ones_own_are_known_again(tmp_path):
    table = torch.stack([draw(2, 3, 2)[..., 0], torch.ones(2, 3, 2, N_ITEMS)], dim=-1).double()
    scores = table[..., 0].mean(-1)
    mine = toy(
        statistics=table, scores=scores, custom_metric=None, metric="mine",
        provenance={"metric_is_mean": True},
    )  # fmt: skip
    again = Toy.load(mine.save(tmp_path / "toy"))
    low, high = again.score_interval()
    assert (low <= scores.mean(-1)).all() and (scores.mean(-1) <= high).all()


def test_a_file_of_an_earlier_version_without_statistics_says_so(tmp_path):
    old = Toy.load(toy(statistics=None).save(tmp_path / "old"))
    assert old.statistics is None and old.scores.equal(toy().scores)
    assert len(old.to_dataframe()) == 12 and old.to_xarray()["score"].shape == (2, 3, 2)
    words = "earlier version holds no statistics of single items: there is no interval; run again"
    for ask in (lambda: old.score_interval(), lambda: old.spread(), lambda: old.n_items):
        with pytest.raises(ResultError, match=words):
            ask()


@pytest.mark.parametrize("kind", ["gates", "savings"])
def test_so_do_the_kinds_that_once_had_none(kind):
    assert VALUES[kind].statistics is None
    with pytest.raises(ResultError, match="holds no statistics of single items"):
        VALUES[kind].score_interval()
