"""Metrics against sacrebleu's own corpus scores and hand-computed values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from icl_locate.errors import TaskError
from icl_locate.metrics import METRICS, CorpusBleu, exact_match, get_metric, token_accuracy

sentences = st.lists(
    st.sampled_from(["le", "chat", "noir", "dort", ",", ".", "Le"]), max_size=8
).map(" ".join)
corpora = st.lists(st.tuples(sentences, sentences.filter(bool)), min_size=1, max_size=5)


@given(corpora)
def test_corpus_metrics_equal_sacrebleu(pairs):
    answers, targets = map(list, zip(*pairs, strict=True))
    for metric, reference in (
        (METRICS["bleu"], BLEU()),
        (CorpusBleu(lowercase=True), BLEU(lowercase=True)),
        (METRICS["chrf"], CHRF()),
    ):
        statistics = metric.statistics(answers, targets)
        ours = metric.score(statistics.sum(axis=0))
        assert ours == pytest.approx(reference.corpus_score(answers, [targets]).score, abs=1e-9)


def test_signatures_are_sacrebleus_own():
    reference = BLEU(lowercase=True)
    reference.corpus_score(["a"], [["a"]])
    assert CorpusBleu(lowercase=True).signature == str(reference.get_signature())
    assert "tok:13a" in METRICS["bleu"].signature and "case:mixed" in METRICS["bleu"].signature
    assert "chrF" in METRICS["chrf"].signature or "nc:6" in METRICS["chrf"].signature


def test_hand_computed():
    assert exact_match(" le chat\n", "le chat") == 1.0
    assert exact_match("Le chat", "le chat") == 0.0
    assert token_accuracy("a b c", "a x c") == pytest.approx(2 / 3)
    assert token_accuracy("a b c d", "a b") == 0.5
    assert token_accuracy("", "a b") == 0.0
    metric = METRICS["token_accuracy"]
    statistics = metric.statistics(["a b", ""], ["a b", "c"])
    assert metric.score(statistics.sum(axis=0)) == 0.5


def test_a_callable_is_averaged():
    def length_ratio(answer, target):
        return len(answer) / len(target)

    metric = get_metric(length_ratio)
    assert metric.name == "length_ratio" and "custom" in metric.signature
    statistics = metric.statistics(["ab", "abcd"], ["abcd", "abcd"])
    assert np.isclose(metric.score(statistics.sum(axis=0)), 0.75)


def test_a_custom_metric_may_not_take_a_known_name():
    def bleu(answer, target):
        return 0.0

    with pytest.raises(TaskError, match="called 'bleu' like one of icl_locate's own: rename"):
        get_metric(bleu)
    assert get_metric(CorpusBleu(lowercase=True)).name == "bleu_lc"


def test_unknown_metrics():
    with pytest.raises(
        TaskError, match="unknown metric 'blue': expected one of bleu, bleu_lc, chrf"
    ):
        get_metric("blue")
    with pytest.raises(TypeError, match="icl_locate.score_targets"):
        METRICS["log_prob"].statistics(["a"], ["b"])
