"""Metrics that compare an answer's text with its target."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from icl_locate.checks.arguments import check_text, refuse, show
from icl_locate.checks.signatures import check_fields, checked, one_of
from icl_locate.errors import TaskError
from icl_locate.metrics.base import Statistics, check_totals, pair_texts

_N_BLEU, _N_CHRF = 10, 18  # columns of statistics
TOKENIZERS = ("13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200", "none")
_SENTENCE_END = re.compile(
    r"(?:(?<![A-Z])(?<!\b[A-Z][a-z])[.!?]|[。！？])[\"'”’»)\]]*(?=\s|$)|[。！？]"
)


@dataclass(frozen=True)
class CorpusBleu:
    """Corpus BLEU by sacrebleu (exponential smoothing), from 0 to 100.

    Attributes:
        lowercase: whether case is ignored.
        tokenize: one of sacrebleu's tokenisers; "zh" for Chinese, "ja-mecab" for Japanese.
        first_sentence: whether only an answer's first sentence counts (Sia et al. 2024).
    """

    lowercase: bool = False
    tokenize: str = "13a"
    first_sentence: bool = False
    n_columns: ClassVar[int] = 10

    def __post_init__(self) -> None:
        check_fields(self, TaskError, tokenize=one_of(*TOKENIZERS))

    @classmethod
    def named(cls, name: str) -> "CorpusBleu":
        """The metric of a name: ``bleu`` or ``bleu_lc``, then ``:TOKENISER``, ``:first_sentence``.

        Raises:
            TaskError: if a part of the name is unknown.

        >>> CorpusBleu.named("bleu_lc:zh:first_sentence").name
        'bleu_lc:zh:first_sentence'
        """
        base, *options = check_text("name", name, error=TaskError).split(":")
        tokenisers = [option for option in options if option != "first_sentence"]
        if (
            base not in ("bleu", "bleu_lc")
            or len(tokenisers) > 1
            or set(tokenisers) - {*TOKENIZERS}
        ):
            raise TaskError(
                f"unknown metric {show(name)}: expected the name bleu or bleu_lc, then one of "
                f"{', '.join(TOKENIZERS)} and first_sentence, parted by colons"
            )
        tokenize = tokenisers[0] if tokenisers else "13a"
        return cls(base == "bleu_lc", tokenize, "first_sentence" in options)

    @property
    def name(self) -> str:
        """Such as "bleu", or "bleu_lc:zh"."""
        parts = ["bleu_lc" if self.lowercase else "bleu"]
        parts += [self.tokenize] if self.tokenize != "13a" else []
        parts += ["first_sentence"] if self.first_sentence else []
        return ":".join(parts)

    @property
    def signature(self) -> str:
        """Sacrebleu's own signature, and what was done to answers before."""
        scorer = self._scorer()
        scorer.corpus_score([""], [[""]])  # sacrebleu fills its signature on first use
        cut = "|answer:first sentence" if self.first_sentence else ""
        return f"{scorer.get_signature()}{cut}"

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: answer length, target length, matched 1- to 4-grams, all 1- to 4-grams."""
        pairs = pair_texts(answers, targets)
        if self.first_sentence:
            pairs = [(first_sentence(answer), target) for answer, target in pairs]
        scorer = self._scorer()
        scores = [scorer.corpus_score([answer], [[target]]) for answer, target in pairs]
        rows = [[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores]
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), _N_BLEU)

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """BLEU of the summed statistics."""
        counts = [int(count) for count in _counts(totals, _N_BLEU).tolist()]
        bleu = BLEU.compute_bleu(
            correct=counts[2:6],
            total=counts[6:10],
            sys_len=counts[0],
            ref_len=counts[1],
            smooth_method="exp",
        )
        return float(bleu.score)

    def scores(self, totals: Float[ndarray, "*cell stat"]) -> Float[ndarray, "*cell"]:
        """BLEU of many rows of summed statistics: what `score` gives for each, to 1e-9.

        The n-th order of a row without a match counts as half a match, its second such as a
        quarter, and so on (sacrebleu's exponential smoothing). A row without any match, or with an
        order of which the answers have no n-gram, is 0.
        """
        counts = _counts(totals, _N_BLEU, many=True)
        n_said, n_wanted = counts[..., 0], counts[..., 1]
        matched, said = counts[..., 2:6], counts[..., 6:10]
        missed = matched == 0
        smoothed = np.where(missed, 0.5 ** missed.cumsum(axis=-1), matched)
        with np.errstate(all="ignore"):  # where an order has no n-grams, the row is 0 anyway
            mean = np.log(100 * smoothed / said).mean(axis=-1)
            brevity = np.where(n_said < n_wanted, np.exp(1 - n_wanted / n_said), 1.0)
            found = brevity * np.exp(mean)
        return np.where(missed.all(axis=-1) | (said == 0).any(axis=-1), 0.0, found)

    def _scorer(self) -> BLEU:
        try:
            return BLEU(lowercase=self.lowercase, tokenize=self.tokenize)
        except (ImportError, RuntimeError, OSError) as error:
            raise TaskError(
                f"sacrebleu's tokeniser {self.tokenize!r} is not to be had here ({error})"
            ) from error


@dataclass(frozen=True)
class CorpusChrf:
    """Corpus chrF2 by sacrebleu, from 0 to 100."""

    name: str = "chrf"
    n_columns: ClassVar[int] = 18

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    @property
    def signature(self) -> str:
        """Sacrebleu's own signature."""
        scorer = CHRF()
        scorer.corpus_score([""], [[""]])
        return str(scorer.get_signature())

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: for each character order, n-grams of answer, of target, and matched."""
        # sacrebleu computes these for its own bootstrap, but has no public name for them
        said, wanted = zip(*pair_texts(answers, targets), strict=True)
        rows = CHRF()._extract_corpus_statistics(said, [wanted])
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), _N_CHRF)

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """chrF2 of the summed statistics."""
        counts = [int(count) for count in _counts(totals, _N_CHRF).tolist()]
        return float(CHRF()._aggregate_and_compute([counts]).score)

    def scores(self, totals: Float[ndarray, "*cell stat"]) -> Float[ndarray, "*cell"]:
        """chrF2 of many rows of summed statistics: what `score` gives for each, to 1e-9.

        Precision and recall are means over the orders of which answers and targets have n-grams.
        """
        counts = _counts(totals, _N_CHRF, many=True)
        said, wanted, matched = (counts[..., i::3] for i in range(3))
        held = (said > 0) & (wanted > 0)
        n_orders = np.maximum(held.sum(axis=-1), 1)
        precision, recall = (
            np.where(held, matched / np.where(held, of, 1), 0).sum(axis=-1) / n_orders
            for of in (said, wanted)
        )
        bottom = 4 * precision + recall
        found = 100 * 5 * precision * recall / np.where(bottom == 0, 1, bottom)
        return np.asarray(found, dtype=np.float64)


def _counts(totals: Any, n_columns: int, *, many: bool = False) -> Float[ndarray, "*cell stat"]:
    """Sums of statistics as the whole numbers that they are, but for rounding."""
    counts = np.rint(check_totals(totals, n_columns, many=many).astype(np.float64)) + 0.0  # no -0
    if not np.isfinite(counts).all():
        rows = counts.reshape(-1, n_columns)
        row = rows[~np.isfinite(rows).all(axis=-1)][0]
        refuse("totals", row.tolist(), "finite sums of statistics", TaskError)
    return counts


@checked(TaskError)
def exact_match(answer: str, target: str) -> float:
    """1 if the answer is the target, white space at the ends aside, else 0."""
    return float(answer.strip() == target.strip())


@checked(TaskError)
def first_sentence(text: str) -> str:
    """A text up to the end of its first sentence; an initial or title does not end one.

    >>> first_sentence("Dr. No met J. Bond. They fought.")
    'Dr. No met J. Bond.'
    """
    found = _SENTENCE_END.search(text)
    return text[: found.end()] if found else text


@checked(TaskError)
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
