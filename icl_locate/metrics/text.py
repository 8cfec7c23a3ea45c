"""Metrics: what a run's answers are worth, as sufficient statistics and the score made of them.

A metric turns each answer into a row of statistics that add up over items, and a sum of such rows
into a score. A bootstrap then never looks at a text twice, and a corpus metric such as BLEU is
resampled as a corpus metric.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from icl_locate.errors import TaskError

Statistics = Float[ndarray, "item stat"]
TextScore = Callable[[str, str], float]


@runtime_checkable
class Metric(Protocol):
    """A metric: statistics of each (answer, target), and the score of their sum."""

    @property
    def name(self) -> str:
        """The name that results and figures show."""
        ...

    @property
    def signature(self) -> str:
        """The recipe: everything that is needed to compute the same number again."""
        ...

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """One row of statistics an item; rows add up."""
        ...

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The score of statistics summed over items."""
        ...


@dataclass(frozen=True)
class MeanMetric:
    """The mean over items of one number each."""

    name: str
    signature: str
    of: TextScore

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: the item's number, and 1 to count it."""
        return mean_statistics([self.of(a, t) for a, t in zip(answers, targets, strict=True)])

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The mean."""
        return float(totals[0] / totals[1])


@dataclass(frozen=True)
class CorpusBleu:
    """Corpus BLEU by sacrebleu (13a tokenisation, exponential smoothing), from 0 to 100."""

    lowercase: bool = False

    @property
    def name(self) -> str:
        """Either "bleu", or "bleu_lc" where case is ignored."""
        return "bleu_lc" if self.lowercase else "bleu"

    @property
    def signature(self) -> str:
        """Sacrebleu's own signature."""
        scorer = self._scorer()
        scorer.corpus_score([""], [[""]])  # sacrebleu fills its signature on first use
        return str(scorer.get_signature())

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: answer length, target length, matched 1- to 4-grams, all 1- to 4-grams."""
        scorer = self._scorer()
        scores = [scorer.corpus_score([a], [[t]]) for a, t in zip(answers, targets, strict=True)]
        rows = [[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores]
        return np.asarray(rows, dtype=np.float64)

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """BLEU of the summed statistics."""
        counts = [round(value) for value in totals.tolist()]
        bleu = BLEU.compute_bleu(
            correct=counts[2:6],
            total=counts[6:10],
            sys_len=counts[0],
            ref_len=counts[1],
            smooth_method="exp",
        )
        return float(bleu.score)

    def _scorer(self) -> BLEU:
        return BLEU(lowercase=self.lowercase)


@dataclass(frozen=True)
class CorpusChrf:
    """Corpus chrF2 by sacrebleu, from 0 to 100."""

    name: str = "chrf"

    @property
    def signature(self) -> str:
        """Sacrebleu's own signature."""
        scorer = CHRF()
        scorer.corpus_score([""], [[""]])
        return str(scorer.get_signature())

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: for each character order, n-grams of answer, of target, and matched."""
        # sacrebleu computes these for its own bootstrap, but has no public name for them
        rows = CHRF()._extract_corpus_statistics(answers, [targets])
        return np.asarray(rows, dtype=np.float64)

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """chrF2 of the summed statistics."""
        counts = [round(value) for value in totals.tolist()]
        return float(CHRF()._aggregate_and_compute([counts]).score)


def mean_statistics(values: Sequence[float]) -> Statistics:
    """Statistics whose score by `MeanMetric` is the mean of the values."""
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)


def exact_match(answer: str, target: str) -> float:
    """1 if the answer is the target, white space at the ends aside, else 0."""
    return float(answer.strip() == target.strip())


def token_accuracy(answer: str, target: str) -> float:
    """The share of positions at which answer and target hold the same word.

    Words are separated by white space; the longer text's length is the denominator, so a word too
    many costs as much as one too few.

    >>> token_accuracy("le chat noir", "le chien noir dort")
    0.5
    """
    said, wanted = answer.split(), target.split()
    hits = sum(a == b for a, b in zip(said, wanted, strict=False))
    return hits / max(len(said), len(wanted), 1)


def _no_answer_needed(answer: str, target: str) -> float:  # noqa: ARG001
    raise TypeError(
        "log_prob is read off the model, not off an answer: use icl_locate.score_targets"
    )


LOG_PROB = MeanMetric("log_prob", "log_prob|base:e|sum:target tokens|mean:items", _no_answer_needed)
"""The target's log-probability; its numbers come from `score_targets`, not from answers."""

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "bleu": CorpusBleu(),
        "bleu_lc": CorpusBleu(lowercase=True),
        "chrf": CorpusChrf(),
        "exact_match": MeanMetric("exact_match", "exact_match|strip", exact_match),
        "token_accuracy": MeanMetric(
            "token_accuracy", "token_accuracy|split:space|over:longer", token_accuracy
        ),
        "log_prob": LOG_PROB,
    }
)


def get_metric(metric: str | Metric | TextScore) -> Metric:
    """The metric of a name; a callable of (answer, target) becomes the mean over items.

    Raises:
        TaskError: if the name is unknown, or a custom metric takes the name of another.
    """
    if isinstance(metric, str):
        if metric not in METRICS:
            raise TaskError(f"unknown metric {metric!r}: expected one of {', '.join(METRICS)}")
        return METRICS[metric]
    if not isinstance(metric, Metric):
        if not callable(metric):
            raise TaskError(f"metric is {metric!r}: expected a name, a Metric or a callable")
        name = getattr(metric, "__name__", type(metric).__name__)
        metric = MeanMetric(name, f"{name}|custom|mean:items", metric)
    if METRICS.get(metric.name, metric) != metric:
        raise TaskError(
            f"the custom metric is called {metric.name!r} like one of icl_locate's own: rename it"
        )
    return metric
