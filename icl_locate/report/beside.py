"""What stands beside a sweep's layers: how answers fail, and what would be saved."""

import html
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from icl_locate import plots
from icl_locate.masking.failures import failure_rates, has_answers
from icl_locate.masking.location import Location
from icl_locate.masking.result import SweepResult
from icl_locate.report.figures import html_figure
from icl_locate.report.tables import html_table
from icl_locate.report.words import described
from icl_locate.savings import paper_share

_FAILURES = {
    "empty": "empty: nothing but white space",
    "copy": "copy: the query again, which is right where a task asks for it",
    "wrong language": "wrong language: another than the task asks for, by a detector that errs on "
    "short texts",
    "no label": "no label: none of the task's labels",
}
_MOST_LABELS = 20


def html_failures(result: SweepResult) -> str:
    """The share of answers that are empty, copied, in the wrong language, or no label."""
    if not has_answers(result):
        return "<p>The model wrote no answers here: the metric is read off probabilities.</p>"
    language, why = _language(result)
    labels = _labels(result)
    rates = failure_rates(result, labels=labels, language=language)
    means = {name: rate.mean(dim=-1) for name, rate in rates.items()}
    ends = [
        (f"{condition}: {name}", f"{float(mean[i, 0]):.1%}", f"{float(mean[i, -1]):.1%}")
        for i, condition in enumerate(result.conditions)
        for name, mean in means.items()
    ]
    meant = "; ".join(_FAILURES[name] for name in rates)
    figure = html_figure(
        plots.failure_curves(result, rates),
        "The share of answers that fail in each way, over the layers, a panel for each condition.",
    )
    table = html_table(("hidden: failure", "hidden everywhere", "nothing hidden"), ends)
    says = html.escape(f"The share of answers that are {meant}. {why}")
    curves = f"<details><summary>Over all layers</summary>{figure}</details>"
    return f"<p>{says}</p>{table}{curves}"


def _language(result: SweepResult) -> tuple[str | None, str]:
    """The language that answers should be in, or ``None``; and why languages are not told."""
    kind, _, direction = str(result.provenance.get("task")).partition("/")
    source, _, target = direction.partition("-")
    if kind != "flores" or not (len(source) == len(target) == 2):
        return None, "Languages are told apart only of translations between natural languages."
    if find_spec("py3langid") is None:
        return None, "Languages are not told apart: it takes pip install 'icl-locate[language]'."
    return target, ""


def _labels(result: SweepResult) -> set[str] | None:
    """The labels of a task that asks for one of a few again and again."""
    found = set(result.targets)
    return found if len(found) <= min(_MOST_LABELS, len(result.targets) // 2) else None


def html_savings(result: SweepResult, locations: Sequence[Location]) -> str:
    """The share of work on the prompt that is saved if the context is dropped from its layer on."""
    rows = [row for location in locations if (row := _saved(result, location))]
    if not rows:
        return (
            "<p>No estimate: it takes a condition that hides the examples and a layer from which "
            "they are no longer needed.</p>"
        )
    table = html_table(
        ("hidden", "dropped from layer", "saved", "saved, if the layer is as late as it may be"),
        rows,
    )
    return (
        "<p>From its recognition layer r on, the model could run without the context. With k "
        "examples, all as long as the query, and n layers, (n − r)/n · k/(k + 1) of the work on a "
        "prompt is saved (Sia et al. 2024, section 5). That formula knows neither instructions nor "
        "how long texts are: <code>icl-locate savings --measure</code> measures time, memory and "
        "scores.</p>" + table
    )


def _saved(result: SweepResult, location: Location) -> tuple[str, ...] | None:
    shots: Any = result.provenance.get("n_shots")
    condition = described(result).get(location.condition, {})
    hides = set(condition.get("hide", ()))
    drops = "EXAMPLES" in hides and not hides & {"QUERY", "BOS", "GENERATED"}
    if not (drops and isinstance(shots, int) and shots and location.verdict == "recognised"):
        return None
    layer, n = location.layer or 0, location.layers[-1]
    latest = max(layer, (location.interval or (layer, layer))[1])
    share, least = (paper_share(n, at, shots) for at in (layer, latest))
    return location.condition, str(layer), f"{share:.0%}", f"{least:.0%}"
