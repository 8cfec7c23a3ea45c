"""Metrics against sacrebleu's own corpus scores and hand-computed values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from icl_locate.errors import TaskError
from icl_locate.metrics import (
    METRICS,
    CorpusBleu,
    exact_match,
    first_sentence,
    get_metric,
    is_mean,
    score_totals,
    token_accuracy,
)

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


@pytest.mark.parametrize("answer", ["le chat", " le chat", "le chat\n", "\tle chat "])
@pytest.mark.parametrize("target", ["le chat", " le chat", "le chat\n", "\tle chat "])
def test_white_space_around_answer_and_target_counts_for_nothing(answer, target):
    assert exact_match(answer, target) == 1.0 == token_accuracy(answer, target)
    assert exact_match(answer, target.replace(" c", "  c", 1)) == 0.0, "inside it does"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("He sleeps. She reads.", "He sleeps."),
        ("He sleeps! She reads.", "He sleeps!"),
        ("Does he? She reads.", "Does he?"),
        ("Wait... what? No.", "Wait..."),
        ("It costs 3.50 euros. Much.", "It costs 3.50 euros."),
        ("Dr. No met J. Bond. They fought.", "Dr. No met J. Bond."),
        ("The U.S. Army left. It rained.", "The U.S. Army left."),
        ('She said "no." He left.', 'She said "no."'),
        ("(It rained.) He left.", "(It rained.)"),
        ("Il dort.\nElle lit.", "Il dort."),
        ("他睡觉。她看书。", "他睡觉。"),
        ("他睡觉！她看书。", "他睡觉！"),
        ("no end at all", "no end at all"),
        ("see example.com for more", "see example.com for more"),
        ("", ""),
        ("ends here.", "ends here."),
    ],
)
def test_first_sentence(text, first):
    assert first_sentence(text) == first


def test_only_the_answer_is_cut_to_its_first_sentence():
    whole, cut = CorpusBleu(), CorpusBleu(first_sentence=True)
    answers = ["le chat dort. il ronfle. il rêve.", "un chien"]
    targets = ["le chat dort. il ronfle.", "un chien court. il aboie."]
    found = cut.statistics(answers, targets)
    assert np.array_equal(found, whole.statistics(["le chat dort.", "un chien"], targets))
    # answer and target lengths in sacrebleu's tokens, counted by hand
    assert found[:, :2].tolist() == [[4, 7], [2, 7]]
    assert not np.array_equal(found, whole.statistics(answers, targets))


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
    with pytest.raises(TaskError, match="icl_locate.score_targets"):
        METRICS["log_prob"].statistics(["a"], ["b"])


def test_means_of_many_totals_are_those_of_each_by_itself():
    """All at once to the last bit; totals that count nothing are refused as they were."""
    generator = np.random.default_rng(0)
    totals = np.stack([generator.normal(size=(5, 7)), generator.integers(1, 9, (5, 7))], axis=-1)
    metric = METRICS["exact_match"]
    assert is_mean(metric)
    single = [[metric.score(row) for row in rows] for rows in totals]
    assert np.array_equal(score_totals(metric, totals), np.array(single))
    assert score_totals(metric, totals[0, 0]).shape == ()
    totals[3, 3] = 0
    with np.errstate(invalid="ignore"), pytest.raises(TaskError, match=r"scored \[0.0, 0.0\]"):
        score_totals(metric, totals)
