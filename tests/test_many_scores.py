"""Whole tables of summed statistics, scored at once, against sacrebleu row by row."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from icl_locate.errors import TaskError
from icl_locate.metrics import METRICS, CorpusBleu, CorpusChrf, score_totals
from icl_locate.tasks import load_task

BIG = st.integers(0, 3) | st.integers(0, 10**6)


def bleu_of(row):
    n_said, n_wanted, *rest = map(round, row.tolist())
    return BLEU.compute_bleu(rest[:4], rest[4:], n_said, n_wanted, smooth_method="exp").score


def chrf_of(row):
    return CHRF()._compute_f_score([round(count) for count in row.tolist()])


ORACLES = {"bleu": bleu_of, "chrf": chrf_of}
WIDTHS = {"bleu": 10, "chrf": 18}


def by_sacrebleu(name, totals):
    rows = totals.reshape(-1, totals.shape[-1])
    return np.array([ORACLES[name](row) for row in rows]).reshape(totals.shape[:-1])


def tables(width):
    """Any counts at all: matches beyond totals and empty orders below full ones, too."""
    shapes = array_shapes(min_dims=0, max_dims=2, max_side=4).map(lambda shape: (*shape, width))
    counts = shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=BIG, fill=BIG))
    return counts.map(lambda table: table.astype(np.float64))


def possible(name, generator, n_rows):
    """Counts as texts give them, of which half of the orders and lengths are 0 in some rows."""
    if name == "bleu":
        said = generator.integers(1, 60, (n_rows, 1))
        orders = np.maximum(said - np.arange(4), 0)
        wanted = generator.integers(0, 90, (n_rows, 1))
        columns = [said, wanted, generator.integers(0, orders + 1), orders]
    else:
        said, wanted = generator.integers(0, 60, (2, n_rows, 6))
        matched = generator.integers(0, np.minimum(said, wanted) + 1)
        columns = [np.stack([said, wanted, matched], axis=-1).reshape(n_rows, 18)]
    table = np.concatenate(columns, axis=-1).astype(np.float64)
    return table * (generator.random(table.shape) > generator.random((n_rows, 1)) / 2)


def near(found, wanted):
    assert found.dtype == np.float64 and found.shape == wanted.shape
    beyond = 1e-11 * np.maximum(wanted, 100)  # counts that no texts have may score far above 100
    assert (np.abs(found - wanted) <= beyond).all(), (found, wanted)


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=300)
@given(data=st.data())
def test_any_counts(name, data):
    totals = data.draw(tables(WIDTHS[name]))
    near(METRICS[name].scores(totals), by_sacrebleu(name, totals))


@pytest.mark.parametrize("name", ORACLES)
def test_counts_with_many_zeros(name):
    totals = possible(name, np.random.default_rng(0), 4000)
    wanted = by_sacrebleu(name, totals)
    near(score_totals(METRICS[name], totals), wanted)
    assert (wanted == 0).any() and (wanted > 0).mean() > 0.1, "both are tried"


BLEU_ROWS = {
    "all is empty": [0] * 10,
    "no answer": [0, 9, 0, 0, 0, 0, 0, 0, 0, 0],
    "no target": [9, 0, 0, 0, 0, 0, 9, 8, 7, 6],
    "no match": [9, 9, 0, 0, 0, 0, 9, 8, 7, 6],
    "one order missed": [9, 9, 8, 6, 3, 0, 9, 8, 7, 6],
    "three orders missed": [9, 9, 8, 0, 0, 0, 9, 8, 7, 6],
    "a gap, and a later match": [9, 9, 8, 0, 2, 0, 9, 8, 7, 6],
    "the first order missed": [9, 9, 0, 3, 2, 1, 9, 8, 7, 6],
    "answers too short for four": [3, 9, 3, 2, 1, 0, 3, 2, 1, 0],
    "too short": [5, 9, 5, 4, 3, 2, 5, 4, 3, 2],
    "much too short": [5, 9000, 5, 4, 3, 2, 5, 4, 3, 2],
    "too long": [9, 5, 5, 4, 3, 2, 9, 8, 7, 6],
    "the same": [9, 9, 9, 8, 7, 6, 9, 8, 7, 6],
    "lengths without n-grams": [9, 9, 1, 1, 1, 1, 0, 0, 0, 0],
    "n-grams without a length": [0, 9, 1, 1, 1, 1, 4, 3, 2, 1],
    "neither length": [0, 0, 1, 1, 1, 1, 4, 3, 2, 1],
}


@pytest.mark.parametrize("case", BLEU_ROWS)
def test_edges_of_bleu(case):
    row = np.array(BLEU_ROWS[case], dtype=np.float64)
    near(CorpusBleu().scores(row), np.asarray(bleu_of(row)))


def test_missed_orders_are_smoothed_by_hand():
    row = np.array([9, 9, 8, 0, 2, 0, 10, 8, 5, 4], dtype=np.float64)
    product = (8 / 10) * (1 / 2 / 8) * (2 / 5) * (1 / 4 / 4)
    assert CorpusBleu().scores(row) == pytest.approx(100 * product**0.25, abs=1e-9)


@pytest.mark.parametrize("name", ORACLES)
def test_counts_are_rounded(name):
    totals = possible(name, np.random.default_rng(1), 200)
    shifted = totals + np.random.default_rng(2).uniform(-0.4, 0.4, totals.shape)
    near(METRICS[name].scores(shifted), by_sacrebleu(name, totals))


@pytest.fixture(scope="module")
def texts():
    """Answers that are right, half right, another's, empty, or cut."""
    targets = [one.target for one in load_task("pseudo-translation").test[:40]] + ["", "le", "a b"]
    words = [target.split() for target in targets]
    answers = [
        " ".join([words[i], words[i][: len(words[i]) // 2] + words[-i][1:], words[i - 1], [],
                  words[i][:2]][i % 5])
        for i in range(len(words))
    ]  # fmt: skip
    return answers, targets


@pytest.mark.parametrize("name", [*ORACLES, "bleu_lc"])
def test_tables_that_leave_one_item_out(name, texts):
    """Of texts, of single items, and of growing and shrinking sums of them."""
    metric, base = METRICS[name], name.removesuffix("_lc")
    statistics = metric.statistics(*texts)
    whole = statistics.sum(axis=0)
    for totals in (whole, statistics, whole - statistics, statistics.cumsum(axis=0),
                   whole - statistics.cumsum(axis=0)):  # fmt: skip
        wanted = by_sacrebleu(base, totals)
        near(score_totals(metric, totals), wanted)
        own = [metric.score(row) for row in totals.reshape(-1, totals.shape[-1])]
        near(np.reshape(own, wanted.shape), wanted)
    reference = {"bleu": BLEU(), "bleu_lc": BLEU(lowercase=True), "chrf": CHRF()}[name]
    corpus = reference.corpus_score(texts[0], [texts[1]]).score
    assert score_totals(metric, whole) == pytest.approx(corpus, abs=1e-9) and 10 < corpus < 90


@pytest.mark.parametrize("name", ORACLES)
@given(seed=st.integers(0, 2**32 - 1), n_rows=st.integers(1, 40))
@example(seed=0, n_rows=1)
def test_a_score_is_its_own_rows_alone(name, seed, n_rows):
    """To the last bit, wherever in a table the row stands: equal cells stay equal."""
    totals = possible(name, np.random.default_rng(seed), n_rows)
    metric = METRICS[name]
    whole = score_totals(metric, totals)
    assert np.array_equal(whole, [score_totals(metric, row).item() for row in totals])
    stacked = score_totals(metric, np.stack([totals, totals[::-1]]))
    assert np.array_equal(stacked, np.stack([whole, whole[::-1]]))


@pytest.mark.parametrize("metric", [CorpusBleu(), CorpusChrf()])
def test_tables_without_rows_and_of_other_metrics(metric):
    assert score_totals(metric, np.zeros((3, 0, metric.n_columns))).shape == (3, 0)
    with pytest.raises(TaskError, match=f"totals is .*: expected an array of {metric.n_columns}"):
        score_totals(metric, np.ones((4, 7)))
    totals = np.ones((4, metric.n_columns))
    totals[2, 1] = np.nan
    with pytest.raises(TaskError, match=r"totals is \[1.0, nan, .*: expected finite sums"):
        score_totals(metric, totals)
    with pytest.raises(TaskError, match=r"totals is \[1.0, nan, .*: expected finite sums"):
        metric.score(totals[2])


class Share:
    """A metric of one's own that scores many sums at once, in a way that a test may replace."""

    name, signature = "share", "share|1"

    def __init__(self, scores=None):
        self.asked = 0
        if scores is not None:
            self.scores = scores

    def statistics(self, answers, targets):
        return np.ones((len(answers), 2))

    def score(self, totals):
        self.asked += 1
        return totals[0] / totals[1]

    def scores(self, totals):
        return totals[:, 0] / totals[:, 1]


ROWS = np.stack([np.arange(24.0), np.arange(1.0, 25.0)], axis=-1).reshape(4, 6, 2)


def test_a_metric_of_ones_own_may_score_at_once():
    metric = Share()
    assert np.array_equal(score_totals(metric, ROWS), ROWS[..., 0] / ROWS[..., 1])
    assert metric.asked <= 3, "not row by row"
    row_by_row = Share(scores=[])  # a list of one's own that happens to be called so
    assert np.array_equal(score_totals(row_by_row, ROWS), ROWS[..., 0] / ROWS[..., 1])
    assert row_by_row.asked == 24
    by_python = Share(scores=lambda totals: [a / b for a, b in totals.tolist()])
    assert np.array_equal(score_totals(by_python, ROWS), ROWS[..., 0] / ROWS[..., 1])


@pytest.mark.parametrize(
    "scores",
    [
        lambda totals: 100 * totals[:, 0] / totals[:, 1],
        lambda totals: (totals[:, 0] / totals[:, 1])[::-1],
        lambda totals: totals[:, 0] / totals[:, 1] + 1e-6,
        lambda totals: np.zeros(len(totals)),
    ],
)
def test_scores_at_once_are_those_one_by_one(scores):
    """The first row's alone would not show it: it is 0 with any factor."""
    said = r"^scores\(\) of the metric 'share' gives .* for the sums \[.*, but score\(\) gives"
    with pytest.raises(TaskError, match=said):
        score_totals(Share(scores), ROWS)


@pytest.mark.parametrize(
    "scores",
    [
        lambda totals: totals,
        lambda totals: totals[:-1, 0],
        lambda totals: 0.5,
        lambda totals: None,
        lambda totals: ["0.5"] * len(totals),
        lambda totals: np.full(len(totals), 1j),
    ],
)
def test_scores_are_one_number_for_each_row(scores):
    said = r"^what scores\(\) of the metric 'share' gave is .*: expected 24 numbers, one for each"
    with pytest.raises(TaskError, match=said):
        score_totals(Share(scores), ROWS)


class Tenth(CorpusBleu):
    """Another score, and sacrebleu's at once."""

    def score(self, totals):
        return super().score(totals) / 10


class TenthByRow(Tenth):
    """Another score, which is all that there is."""

    scores = None


def test_a_score_that_is_overridden_is_not_passed_over():
    totals = np.array([[0] * 10, BLEU_ROWS["the same"], BLEU_ROWS["no match"]], dtype=np.float64)
    with pytest.raises(TaskError, match=r"gives 100\.0.* but score\(\) gives 10\.0.* = None$"):
        score_totals(Tenth(), totals)
    near(score_totals(TenthByRow(), totals), np.array([0.0, 10.0, 0.0]))


def test_scores_that_fail_or_are_no_numbers_are_named():
    with pytest.raises(TaskError, match=r"^scores\(\) of the metric 'share' failed on 24 rows of"):
        score_totals(Share(lambda answers, targets: 0.0), ROWS)
    said = r"^the metric 'share' scored \[0.0, 1.0\] .*its statistics.* as nan: expected a number"
    with pytest.raises(TaskError, match=said):
        score_totals(Share(lambda totals: np.full(len(totals), np.nan)), ROWS)
    metric = Share()
    metric.score = lambda totals: totals[7]
    with pytest.raises(TaskError, match=r"but score\(\) gives IndexError"):
        score_totals(metric, ROWS)
