"""Metrics: what a run's answers are worth, as sufficient statistics and the score made of them.

A metric turns each answer into a row of statistics that add up over items, and a sum of such rows
into a score. An interval then never looks at a text again, and that of a corpus metric such as BLEU
is of the corpus metric.
"""

from icl_locate.metrics.base import (
    MeanMetric,
    Metric,
    Statistics,
    TextScore,
    is_mean,
    mean_statistics,
    score_totals,
)
from icl_locate.metrics.calibrated import (
    CalibratedLabelAccuracy,
    domain_texts,
    uncalibrated_signature,
)
from icl_locate.metrics.first_token import FirstToken
from icl_locate.metrics.labels import BareLabelAccuracy, LabelAccuracy
from icl_locate.metrics.programs import PassRate
from icl_locate.metrics.readouts import (
    Answers,
    BareLabels,
    CalibratedLabels,
    GeneratedText,
    LabelChoice,
    LabelLogProbs,
    NextToken,
    Readout,
    TargetLogProb,
    readout_of,
)
from icl_locate.metrics.registry import (
    LOG_PROB,
    METRICS,
    check_statistics,
    find_scorer,
    generates,
    get_metric,
    gives_text,
    is_calibrated,
    is_known,
    require_answers,
)
from icl_locate.metrics.text import (
    CorpusBleu,
    CorpusChrf,
    exact_match,
    first_sentence,
    token_accuracy,
)
from icl_locate.metrics.traits import for_task, judged
from icl_locate.prompts.programs import pass_at_k

__all__ = [
    "LOG_PROB",
    "METRICS",
    "Answers",
    "BareLabelAccuracy",
    "BareLabels",
    "CalibratedLabelAccuracy",
    "CalibratedLabels",
    "CorpusBleu",
    "CorpusChrf",
    "FirstToken",
    "GeneratedText",
    "LabelAccuracy",
    "LabelChoice",
    "LabelLogProbs",
    "MeanMetric",
    "Metric",
    "NextToken",
    "PassRate",
    "Readout",
    "Statistics",
    "TargetLogProb",
    "TextScore",
    "check_statistics",
    "domain_texts",
    "exact_match",
    "find_scorer",
    "first_sentence",
    "for_task",
    "generates",
    "get_metric",
    "gives_text",
    "is_calibrated",
    "is_known",
    "is_mean",
    "judged",
    "mean_statistics",
    "pass_at_k",
    "readout_of",
    "require_answers",
    "score_totals",
    "token_accuracy",
    "uncalibrated_signature",
]
