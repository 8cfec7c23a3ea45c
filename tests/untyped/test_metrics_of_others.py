"""Metrics that users write: what they give is taken as a number, or refused by name."""

import json

import numpy as np
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate.errors import PromptError, TaskError
from icl_locate.metrics import get_metric, score_totals
from icl_locate.metrics.base import check_columns, item_statistics

SMALL = {"n_shots": 1, "n_queries": 2, "seeds": 0, "conditions": "examples", "max_new_tokens": 2}


class Counted:
    """A metric of one's own, whose parts a test may replace."""

    def __init__(self, table=None, score=0.5, name="mine", signature="mine|1"):
        self.name, self.signature = name, signature
        self._table, self._score = table, score

    def statistics(self, answers, targets):
        return np.ones((len(answers), 2)) if self._table is None else self._table

    def score(self, totals):
        return self._score


@pytest.fixture(scope="module")
def model():
    return tiny.boot("llama")


@pytest.fixture(scope="module")
def task():
    return icl.load_task("pseudo-translation")


@pytest.mark.parametrize("value", [True, 1, 0.5, np.bool_(True), np.float32(0.5), np.int64(1)])
def test_numbers_of_any_library_are_taken(value):
    statistics = item_statistics(get_metric(lambda answer, target: value), ["a"], ["b"])
    assert statistics.tolist() == [[float(value), 1.0]]


@pytest.mark.parametrize("value", ["1", [1.0], None, float("nan"), float("inf"), 1j, {}])
def test_what_is_no_number_is_refused_with_the_answer(value, model, task):
    def mine(answer, target):
        return value

    with pytest.raises(TaskError, match="^the metric 'mine' gave .* for the answer 'said'"):
        item_statistics(get_metric(mine), ["said"], ["b"])
    with pytest.raises(TaskError, match="^the metric 'mine' gave"):
        icl.sweep(model, task, metric=mine, **SMALL)


def test_a_metric_that_fails_is_named():
    def mine(answer, target):
        return 1 / len(answer)

    with pytest.raises(TaskError, match="^the metric 'mine' failed on the answer '': ZeroDivision"):
        item_statistics(get_metric(mine), [""], ["b"])


@pytest.mark.parametrize(
    "table",
    [np.ones((1, 2)), np.ones(2), np.ones((2, 0)), [[1, 2], [3]], [["a"], ["b"]], None.__class__,
     np.full((2, 2), np.nan), np.full((2, 2), -np.inf), "ab", 7],
)  # fmt: skip
def test_statistics_are_one_row_of_numbers_for_each_answer(table, model, task):
    with pytest.raises(TaskError, match="^the metric 'mine' gave .* as statistics of"):
        item_statistics(Counted(table), ["a", "b"], ["a", "b"])
    with pytest.raises(TaskError, match="^the metric 'mine' gave"):
        icl.sweep(model, task, metric=Counted(table), **SMALL)


@pytest.mark.parametrize("score", ["1", None, [1.0], float("nan")])
def test_scores_are_numbers(score):
    with pytest.raises(TaskError, match="^the metric 'mine' scored .*: expected a number"):
        score_totals(Counted(score=score), np.ones((3, 2)))


def test_statistics_of_all_cells_have_as_many_columns():
    with pytest.raises(TaskError, match="'mine' gave statistics of different shapes, .2, 2. and"):
        check_columns(Counted(), [np.ones((2, 2)), np.ones((2, 3))])


@pytest.mark.parametrize("part", ["name", "signature"])
@pytest.mark.parametrize("value", ["", " ", None, 3, "\ud800"])
def test_a_metric_has_a_name_and_a_signature(part, value):
    with pytest.raises(TaskError, match=f"^the metric's {part} is"):
        get_metric(Counted(**{part: value}))


def test_targets_that_no_answer_can_equal_are_refused(model, task):
    stop = icl.PromptTemplate(stop=("\n",))
    query = icl.Example("a", "one\ntwo")
    held = icl.Task("t", task.train, (icl.Example("c", "d"), query), stop)
    message = "^the target of query 1, 'one.*two', holds the stop string '.*', at which answers end"
    with pytest.raises(PromptError, match=message):
        icl.sweep(model, held, metric="exact_match", **SMALL)
    with pytest.raises(PromptError, match=message):
        icl.HeadStudy(model, held, metric="exact_match", n_shots=1, n_queries=2)
    assert icl.sweep(model, held, metric="log_prob", **SMALL).metric == "log_prob"
    outer = icl.Task("t", task.train, (icl.Example("c", "\nd"), icl.Example("a", "b\n")), stop)
    icl.sweep(model, outer, metric="exact_match", **SMALL)  # white space at the ends goes anyway


def test_numbers_come_out_as_plain_ones(model, task):
    found = icl.sweep(
        model, task, conditions="examples", metric="log_prob", n_shots=np.int64(1),
        n_queries=torch.tensor(2), seeds=np.array([3]), batch_size=np.uint8(2),
        max_new_tokens=np.int32(2),
    )  # fmt: skip
    assert found.seeds == (3,) and type(found.seeds[0]) is int
    assert json.loads(json.dumps(found.provenance))["n_queries"] == 2


@pytest.mark.parametrize("where", ["source", "target", "instruction", "separator", "name"])
def test_halves_of_character_pairs_are_refused_where_texts_are_made(where, task):
    half = "a\ud800"
    makers = {
        "source": lambda: icl.Example(half, "b"),
        "target": lambda: icl.Example("a", half),
        "name": lambda: icl.Task(half, task.train, task.test, task.template),
        "instruction": lambda: icl.PromptTemplate(half),
        "separator": lambda: icl.PromptTemplate(separator=half),
    }
    with pytest.raises((PromptError, TaskError), match=f"^{where} is .*lone surrogates"):
        makers[where]()
