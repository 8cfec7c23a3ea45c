"""The metrics by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.arguments import check_text, refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import ResultError, TaskError
from icl_locate.metrics.base import MeanMetric, Metric, TextScore, is_mean
from icl_locate.metrics.calibrated import CalibratedLabelAccuracy
from icl_locate.metrics.first_token import FirstToken
from icl_locate.metrics.labels import BareLabelAccuracy, LabelAccuracy
from icl_locate.metrics.log_prob import MeanLogProb
from icl_locate.metrics.programs import PassRate
from icl_locate.metrics.readouts import readout_of
from icl_locate.metrics.text import CorpusBleu, CorpusChrf, exact_match, token_accuracy
from icl_locate.metrics.traits import check_metric

LOG_PROB = MeanLogProb()
"""The target's log-probability."""

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
        "label_accuracy": LabelAccuracy(),
        "label_accuracy_contextual": CalibratedLabelAccuracy(),
        "label_accuracy_domain": CalibratedLabelAccuracy(kind="domain"),
        "bare_label_accuracy": BareLabelAccuracy(),
        "first_token_accuracy": FirstToken("accuracy"),
        "first_token_prob": FirstToken("prob"),
        "pass@1": PassRate(),
    }
)


def generates(metric: Metric | str) -> bool:
    """Whether a metric scores generated answers, not log-probabilities that are read off."""
    return readout_of(get_metric(metric)).generates


def gives_text(name: str, custom: Metric | None) -> bool:
    """Whether results of a metric hold answers; of one that nobody knows here they do."""
    metric = get_metric(name) if custom is None and is_known(name) else custom
    return readout_of(metric).gives_text


def require_answers(metric: Metric) -> None:
    """Refuse a metric that is read off log-probabilities where answers are what counts.

    Raises:
        TaskError: naming the metrics of answers.
    """
    if not generates(metric):
        raise TaskError(
            f"the metric {metric.name!r} reads no answers: expected one of "
            f"{', '.join(filter(generates, METRICS))}"
        )


def is_known(name: str) -> bool:
    """Whether a metric's name is enough to compute it again."""
    check_text("name", name, error=TaskError)
    try:
        get_metric(name)
    except TaskError:
        return False
    return True


def get_metric(metric: str | Metric | TextScore) -> Metric:
    """The metric of a name; a callable of (answer, target) becomes the mean over items.

    BLEU's name may carry options, such as "bleu:zh" or "bleu_lc:first_sentence" (`CorpusBleu`).

    Raises:
        TaskError: if the name is unknown, or a custom metric takes the name of another.
    """
    if isinstance(metric, str):
        if metric not in METRICS and metric.startswith("bleu"):
            return CorpusBleu.named(metric)
        if metric not in METRICS:
            raise TaskError(f"unknown metric {metric!r}: expected one of {', '.join(METRICS)}")
        return METRICS[metric]
    if not isinstance(metric, Metric):
        if not callable(metric):
            refuse("metric", metric, "a name, a Metric or a function", TaskError)
        name = str(getattr(metric, "__name__", type(metric).__name__))
        metric = MeanMetric(name, f"{name}|custom|mean:items", metric)
    check_metric(metric, "metric")
    known = METRICS.get(metric.name, metric)
    varied = type(metric) is type(known) and not isinstance(metric, MeanMetric)  # other options
    if known != metric and not varied:
        raise TaskError(
            f"the custom metric is called {metric.name!r} like one of icl_locate's own: rename it"
        )
    return metric


def is_calibrated(name: str, custom: Metric | None) -> bool:
    """Whether a metric is a calibrated label accuracy, whose statistics hold the raw one, too."""
    return custom is None and isinstance(METRICS.get(name), CalibratedLabelAccuracy)


@checked(ResultError, custom=anything)
def find_scorer(name: str, custom: Metric | None, provenance: Mapping[str, Any]) -> Metric:
    """The metric that turns a result's summed statistics into scores.

    Raises:
        ResultError: for a custom metric after loading: what it computes is not in the file.
    """
    if custom is not None:
        if not isinstance(custom, Metric):
            refuse("custom", custom, "a Metric, or None", ResultError)
        return custom
    if is_known(name):
        return get_metric(name)
    if provenance.get("metric_is_mean"):
        return METRICS["exact_match"]  # means are all made of their statistics in one way
    raise ResultError(
        f"the metric of the name {name!r} is not part of icl_locate, so its "
        "intervals cannot be computed from the file: set custom_metric with dataclasses.replace"
    )


def check_statistics(
    statistics: Float[ndarray, "*cell item stat"],
    name: str,
    custom: Metric | None,
    provenance: Mapping[str, Any],
) -> None:
    """Refuse statistics that the metric of a result cannot have given; custom ones may be any.

    Raises:
        ResultError: if their columns are too few or many, or do not count what they should.
    """
    if custom is not None or not (is_known(name) or provenance.get("metric_is_mean") is True):
        return
    metric = find_scorer(name, None, provenance)
    n_columns = getattr(metric, "n_columns", None)
    if statistics.shape[-1] != n_columns:
        raise ResultError(
            f"statistics has {statistics.shape[-1]} columns: expected the {n_columns} of {name!r}"
        )
    counts = statistics[..., -1:] if is_mean(metric) else statistics
    whole = np.equal(counts, np.floor(counts)) & (counts >= 0) & (counts < 2**53)
    if not (whole.all() and (not is_mean(metric) or (counts > 0).all())):
        raise ResultError(f"statistics holds what is no count of {name!r}: expected whole numbers")
