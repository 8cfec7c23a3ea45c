"""Metrics: what a run's answers are worth, as sufficient statistics and the score made of them.

A metric turns each answer into a row of statistics that add up over items, and a sum of such rows
into a score. A bootstrap then never looks at a text twice, and a corpus metric such as BLEU is
resampled as a corpus metric.
"""

from icl_locate.metrics.base import (
    MeanMetric,
    Metric,
    Statistics,
    TextScore,
    mean_statistics,
    score_totals,
)
from icl_locate.metrics.labels import LabelAccuracy
from icl_locate.metrics.programs import PassRate, judged
from icl_locate.metrics.registry import (
    LOG_PROB,
    METRICS,
    check_statistics,
    find_scorer,
    generates,
    get_metric,
    is_known,
    is_log_prob,
    is_mean,
    require_answers,
)
from icl_locate.metrics.text import (
    CorpusBleu,
    CorpusChrf,
    exact_match,
    first_sentence,
    token_accuracy,
)
from icl_locate.prompts.programs import pass_at_k

__all__ = [
    "LOG_PROB",
    "METRICS",
    "CorpusBleu",
    "CorpusChrf",
    "LabelAccuracy",
    "MeanMetric",
    "Metric",
    "PassRate",
    "Statistics",
    "TextScore",
    "check_statistics",
    "exact_match",
    "find_scorer",
    "first_sentence",
    "generates",
    "get_metric",
    "is_known",
    "is_log_prob",
    "is_mean",
    "judged",
    "mean_statistics",
    "pass_at_k",
    "require_answers",
    "score_totals",
    "token_accuracy",
]
