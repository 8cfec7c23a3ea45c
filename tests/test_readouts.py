"""How cells are read: what a metric names, metrics of one's own included."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import metrics
from icl_locate.engine.grid import run_grid
from icl_locate.engine.readout import READERS
from icl_locate.errors import PromptError, ResultError, TaskError
from icl_locate.studies import Setting

TASK = replace(icl.load_task("pseudo-translation"), metric="exact_match")
TASK = replace(TASK, train=TASK.train[:8], test=TASK.test[:3])
SMALL = {"n_shots": 1, "n_queries": 3, "seeds": [0, 1], "max_new_tokens": 3}
SMALL |= {"conditions": ["examples", "query"]}


class SharedLetters:
    """A text metric as somebody writes it who has read the protocol alone."""

    name = "shared letters"
    signature = "shared letters|1"

    def statistics(self, answers, targets):
        pairs = zip(answers, targets, strict=True)
        rows = [[len(set(a) & set(t)), len(set(a) | set(t)), 1.0] for a, t in pairs]
        return np.array(rows, dtype=float)

    def score(self, totals):
        return float(totals[0] / max(totals[1], 1.0))


@dataclass(frozen=True)
class MeanProbability:
    """A metric of numbers that runs read off."""

    name: str = "probability"
    signature: str = "probability|mean:items"
    readout = metrics.TargetLogProb()
    is_mean = True

    def statistics(self, answers, targets):
        assert all(isinstance(answer, float) for answer in answers)
        return np.array([[math.exp(answer), 1.0] for answer in answers])

    def score(self, totals):
        return float(totals[0] / totals[1])


class SecondLetter:
    """A metric of chosen labels, which says what it did."""

    name = "second letter"
    signature = "second letter|1"
    readout = metrics.LabelLogProbs(("rano", "dode", "zimo"))

    def statistics(self, answers, targets):
        return np.array([[float(a[1] == t[1]), 1.0] for a, t in zip(answers, targets, strict=True)])

    def score(self, totals):
        return float(totals[0] / totals[1])

    def judged(self):
        return {"judged_labels": 3}


@pytest.mark.parametrize("metric", [SharedLetters(), MeanProbability(), SecondLetter()])
def test_a_metric_of_ones_own_works_in_sweep_result_and_report(metric, tmp_path):
    model = tiny.boot("llama")
    shared = icl.sweep(model, TASK, metric=metric, engine="shared", **SMALL)
    hooked = icl.sweep(model, TASK, metric=metric, engine="hooks", **SMALL)
    assert torch.allclose(shared.scores, hooked.scores, atol=1e-4)
    assert shared.texts == hooked.texts and shared.custom_metric is metric
    assert shared.provenance["signature"] == metric.signature
    located = icl.locate(shared)
    icl.write_report(shared, tmp_path / "report.html", locations=located)
    assert metric.name in (tmp_path / "report.html").read_text()
    again = icl.SweepResult.load(shared.save(tmp_path / "swept"))
    assert again.metric == metric.name and again.scores.equal(shared.scores)
    relocated = icl.locate(replace(again, custom_metric=metric))
    assert [found.layer for found in relocated] == [found.layer for found in located]
    if not getattr(metric, "is_mean", False):
        with pytest.raises(ResultError, match="not part of icl_locate"):
            icl.locate(again)
    else:
        assert [found.layer for found in icl.locate(again)] == [found.layer for found in located]


def test_numbers_are_those_of_score_targets():
    model = tiny.boot("llama")
    found = icl.sweep(model, TASK, metric=MeanProbability(), **SMALL)
    logs = icl.sweep(model, TASK, metric="log_prob", **SMALL)
    wanted = logs.statistics[..., 0].exp().mean(dim=-1)
    assert torch.allclose(found.scores, wanted, atol=1e-6)
    assert set(np.array(found.texts, dtype=object).ravel()) == {""}
    with pytest.raises(ResultError, match="another metric than probability"):
        icl.failure_rates(found)


def test_labels_are_those_of_score_labels():
    model, metric = tiny.boot("llama"), SecondLetter()
    found = icl.sweep(model, TASK, metric=metric, **SMALL)
    prompts = icl.build_prompts(
        model, TASK.test, examples=TASK.train, n_shots=1, seed=0,
        template=TASK.template_for(instruction=False),
    )  # fmt: skip
    mask = icl.ContextMask({icl.Segment.EXAMPLES}, icl.from_layer(1))
    best = icl.score_labels(model, prompts, metric.readout.labels, mask).argmax(dim=1)
    assert found.texts[0][1][0] == [metric.readout.labels[i] for i in best]
    assert found.provenance["judged_labels"] == 3
    assert set(icl.failure_rates(found)) == {"empty", "copy"}


def test_what_metrics_say_of_themselves():
    readouts = {name: type(metrics.readout_of(metric)) for name, metric in metrics.METRICS.items()}
    assert readouts.pop("log_prob") is metrics.TargetLogProb
    assert readouts.pop("label_accuracy") is metrics.LabelLogProbs
    assert readouts.pop("bare_label_accuracy") is metrics.BareLabels
    for name in ("label_accuracy_contextual", "label_accuracy_domain"):
        assert readouts.pop(name) is metrics.CalibratedLabels
    for name in ("first_token_accuracy", "first_token_prob"):
        assert readouts.pop(name) is metrics.NextToken
    assert set(readouts.values()) == {metrics.GeneratedText}, "the default"
    assert metrics.readout_of(SharedLetters()) == metrics.GeneratedText()
    assert {name for name, m in metrics.METRICS.items() if not metrics.is_mean(m)} == {
        "bleu", "bleu_lc", "chrf", "label_accuracy_contextual", "label_accuracy_domain",
    }  # fmt: skip
    assert not metrics.is_mean(SharedLetters()) and metrics.is_mean(MeanProbability())
    assert metrics.judged(SharedLetters()) == {}
    assert not metrics.generates(MeanProbability()) and metrics.generates(SharedLetters())
    assert metrics.for_task(SharedLetters(), TASK, 2).name == "shared letters"
    labels = metrics.LabelAccuracy(("a", "b"))
    assert metrics.for_task(labels, TASK, 2) is labels
    bound = metrics.for_task(metrics.LabelAccuracy(), TASK, 2)
    assert bound.labels == tuple(dict.fromkeys(e.target for e in TASK.train))


def test_a_metric_may_let_targets_hold_a_stop_string():
    stop = icl.PromptTemplate(stop=("\n",))
    held = icl.Task("t", TASK.train, (icl.Example("c", "d\ne"), icl.Example("a", "b")), stop)
    metric = SharedLetters()
    options = SMALL | {"n_queries": 2, "conditions": "examples"}
    with pytest.raises(PromptError, match="holds the stop string"):
        icl.sweep(tiny.boot("llama"), held, metric=metric, **options)
    metric.compares_targets = False
    assert icl.sweep(tiny.boot("llama"), held, metric=metric, **options).metric == metric.name


def test_a_metric_that_runs_programs_is_asked_for(monkeypatch):
    task = replace(TASK, metric="pass@1")
    with pytest.raises(TaskError, match="running the programs .* say metric='pass@1' if you want"):
        icl.sweep(tiny.boot("llama"), task, **SMALL)


def test_readouts_that_nobody_reads_are_refused():
    class Hidden(metrics.Readout):
        """Nobody's."""

    metric = SharedLetters()
    metric.readout = Hidden()
    with pytest.raises(TaskError, match="^nobody reads a Hidden: expected one of BareLabels, Cal"):
        icl.sweep(tiny.boot("llama"), TASK, metric=metric, **SMALL)
    metric.readout = "text"
    with pytest.raises(TaskError, match="^the metric's readout is 'text': expected one of"):
        icl.sweep(tiny.boot("llama"), TASK, metric=metric, **SMALL)
    assert {
        metrics.GeneratedText, metrics.TargetLogProb, metrics.LabelLogProbs, metrics.NextToken,
        metrics.CalibratedLabels, metrics.BareLabels,
    } == set(READERS)  # fmt: skip


class Bound(SharedLetters):
    """A metric that binds itself to a task, as well or badly as it is told to."""

    def __init__(self, gives):
        self.gives = gives

    def for_task(self, task, n_queries):
        return self.gives


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (None, "^what for_task of the metric 'shared letters' gave is None: expected a Metric"),
        ("exact_match", "gave is 'exact_match': expected a Metric"),
        (type("Odd", (SharedLetters,), {"readout": "text"})(), "readout is 'text'"),
        (type("Odd", (SharedLetters,), {"name": 3})(), "^the metric's name is 3"),
    ],
)
def test_what_for_task_gives_is_a_metric(gives, message):
    for make in (
        lambda: metrics.for_task(Bound(gives), TASK, 2),
        lambda: icl.sweep("nowhere", TASK, metric=Bound(gives), **SMALL),
    ):
        with pytest.raises(TaskError, match=message):
            make()
    bound = MeanProbability()
    assert metrics.for_task(Bound(bound), TASK, 2) is bound


class Judged(SharedLetters):
    """A metric that says something of itself at the end."""

    def __init__(self, says):
        self.says = says

    def judged(self):
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (
            None,
            "^what judged.. of the metric 'shared letters' gave is None: expected a mapping whose",
        ),
        ({3: 1}, "expected a mapping whose names begin with 'judged' or 'unjudged', to what JSON"),
        ({"judged": np.int64(3)}, "^'judged' in what judged.. .* expected what JSON can hold"),
        ({"judged": float("nan")}, "what JSON can hold"),
        ({"judged": {1, 2}}, "what JSON can hold"),
        ({"judged": 1, "model": "mine"}, "expected a mapping whose names begin with 'judged'"),
        (ZeroDivisionError("by zero"), "judged.. of .* failed: ZeroDivisionError: by zero; it is"),
    ],
)
def test_what_a_metric_says_of_itself_is_looked_at_before_anything_runs(says, message):
    with pytest.raises(TaskError, match=message):
        icl.sweep("nowhere", TASK, metric=Judged(says), **SMALL)
    metric = Judged({"judged_seen": 1})
    setting = Setting.of(TASK, metric=metric, n_queries=2)
    assert setting.outcome() == {"judged_seen": 1}
    metric.says = says
    with pytest.raises(TaskError, match=message):
        setting.outcome()


def test_no_name_of_a_recipe_is_free():
    found = icl.sweep(tiny.boot("llama"), TASK, metric=Judged({"judged_seen": 1}), **SMALL)
    assert found.provenance["judged_seen"] == 1
    for name in set(found.provenance) - {"judged_seen"}:
        with pytest.raises(TaskError, match="expected a mapping whose names begin"):
            Setting.of(TASK, metric=Judged({name: 1}), n_queries=2)


def test_labels_are_two_or_more():
    model, message = tiny.boot("llama"), "^the labels to choose among are .*: expected two or more"
    prompts = icl.build_prompts(model, TASK.test, n_shots=0)
    options = {"max_new_tokens": 1, "batch_size": 4}
    for labels in ((), ("dode",)):
        metric = type("Few", (SecondLetter,), {"readout": metrics.LabelLogProbs(labels)})()
        with pytest.raises(TaskError, match=message):
            icl.sweep("nowhere", TASK, metric=metric, **SMALL)
        with pytest.raises(TaskError, match=message):
            metric.readout.choose([[0.0] * len(labels)], ["a"])
        for engine in ("shared", "hooks"):
            runs = [icl.ContextMask({icl.Segment.QUERY})]
            with pytest.raises(TaskError, match=message):
                run_grid(model, prompts, runs, metric, engine=engine, **options)


def test_a_custom_metric_may_have_the_options_but_not_the_name_of_anothers():
    rate = metrics.PassRate(timeout=9.0)
    assert metrics.get_metric(rate) is rate
    for name, metric in (
        ("exact_match", metrics.MeanMetric("exact_match", "mine|1", lambda answer, target: 0.5)),
        ("bleu", metrics.PassRate(name="bleu")),
        ("log_prob", MeanProbability(name="log_prob")),
    ):
        with pytest.raises(TaskError, match=f"the custom metric is called {name!r} like one of"):
            metrics.get_metric(metric)


def test_a_saved_result_of_numbers_still_has_no_answers_that_fail(tmp_path):
    """What its metric reads is known from the file, where the metric itself is not."""
    task = icl.load_task("pseudo-translation")
    options = {"n_shots": 1, "n_queries": 2, "seeds": 0, "conditions": ["examples"]}
    found = icl.sweep(tiny.boot("llama"), task, metric=MeanProbability(), **options)
    loaded = icl.SweepResult.load(found.save(tmp_path / "run"))
    for result in (found, loaded):
        with pytest.raises(ResultError, match="the result holds no answers"):
            icl.failure_rates(result)


class Percent(SecondLetter):
    """It says that it is a mean, and is a hundred times one."""

    name = "percent"
    is_mean = True

    def score(self, totals):
        return 100 * super().score(totals)


class Third(SecondLetter):
    """It says that it is a mean, and cannot score what means are made of."""

    name = "third"
    is_mean = True

    def score(self, totals):
        return totals[2]


@pytest.mark.parametrize(
    ("metric", "says"), [(Percent(), "1 over 2 items as 50.0"), (Third(), "IndexError")]
)
def test_a_metric_that_only_says_it_is_a_mean_is_refused(metric, says):
    """Else its scores would lose their factor wherever they are made of saved statistics."""
    with pytest.raises(TaskError, match=f"says that it is a mean, but scores .*{says}"):
        icl.sweep(tiny.boot("llama"), TASK, metric=metric, **SMALL)
    honest = SecondLetter()
    honest.is_mean = True
    assert icl.sweep(tiny.boot("llama"), TASK, metric=honest, **SMALL).provenance["metric_is_mean"]
