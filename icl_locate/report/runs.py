"""Several sweeps on one page: curves on one axis, layers side by side, paired differences."""

import html
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.comparison import Difference, compare
from icl_locate.masking.location import Location, locate
from icl_locate.masking.result import SweepResult
from icl_locate.plots.runs import run_curves
from icl_locate.report.differences import html_differences
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.tables import html_table, paragraphs
from icl_locate.report.words import tell_axis, tell_metric

Located = Mapping[str, Mapping[str, Location]]
"""Locations by run and condition."""


@checked(ResultError)
def write_run_report(
    path: str | Path, results: Mapping[str, SweepResult], *, confidence: float = 0.95
) -> Path:
    """Write one HTML page that sets several sweeps side by side.

    Args:
        results: sweeps by a name for each, two or more.
        confidence: of the intervals.

    Raises:
        ResultError: if there are fewer, or one did not mask from each layer on.
    """
    if len(results) < 2:
        refuse("results", list(results), "two sweeps or more, by a name for each", ResultError)
    located = {
        name: {found.condition: found for found in locate(result, confidence=confidence)}
        for name, result in results.items()
    }
    compared = {pair: _compare(results, pair, confidence) for pair in combinations(results, 2)}
    first = next(iter(results.values()))
    sections = [
        Section("What was run", _html_runs(results)),
        Section("How to read it", paragraphs([tell_axis(first), tell_metric(first)])),
        Section("Curves", _html_curves(results, confidence)),
        Section("Layers", _html_layers(located)),
        Section("Differences", "".join(map(_html_pair, compared, compared.values()))),
    ]
    recipes = {name: dict(result.provenance) for name, result in results.items()}
    title = f"{len(results)} runs side by side: {', '.join(results)}"
    return write_page(path, title, sections, recipes, finding=_finding(located, compared))


Compared = Mapping[tuple[str, str], list[Difference] | str]
"""By the names of two runs their differences, or why there are none."""


def _compare(
    results: Mapping[str, SweepResult], pair: tuple[str, str], confidence: float
) -> list[Difference] | str:
    try:
        return compare(*(results[name] for name in pair), confidence=confidence)
    except ResultError as error:
        return str(error)


def _finding(located: Located, compared: Compared) -> list[str]:
    """Each condition's layer in each run, and which differ."""
    conditions = dict.fromkeys(name for found in located.values() for name in found)
    said = []
    for condition in conditions:
        here = [
            f"{found[condition].label} in {run}"
            for run, found in located.items()
            if condition in found
        ]
        said.append(f"“{condition}” hidden: {'; '.join(here)}.")
    for pair, found in compared.items():
        if isinstance(found, str):
            said.append(f"{pair[0]} and {pair[1]} are not compared: {found}.")
            continue
        differ = [one for one in found if one.verdict in ("later", "earlier")]
        said += [f"{one}." for one in differ]
        if not differ:
            said.append(f"No layer of {pair[0]} is shown to differ from that of {pair[1]}.")
    return said


def _html_runs(results: Mapping[str, SweepResult]) -> str:
    headers = ("run", "model", "task", "examples", "queries", "seeds", "metric")
    rows = [
        (
            name,
            str(result.provenance.get("model")),
            str(result.provenance.get("task")),
            str(result.provenance.get("n_shots")),
            str(len(result.sources)),
            ", ".join(map(str, result.seeds)),
            result.metric.replace("_", " "),
        )
        for name, result in results.items()
    ]
    return html_table(headers, rows, words=True)


def _html_curves(results: Mapping[str, SweepResult], confidence: float) -> str:
    """A figure for each condition and metric that runs have."""
    groups: dict[tuple[str, str], dict[str, SweepResult]] = {}
    for name, result in results.items():
        for condition in result.conditions:
            groups.setdefault((condition, result.metric), {})[name] = result
    return "".join(
        html_figure(
            run_curves(some, condition, confidence=confidence),
            f"Curves of the score over the layer from which “{condition}” is hidden, one for each "
            "run, with bands for intervals and diamonds at the recognition layers.",
        )
        for (condition, _), some in groups.items()
    )


def _html_layers(located: Located) -> str:
    """A row for each condition and run."""
    rows = [
        (found.condition, name, found.verdict, found.place, _interval(found), found.worth,
         f"{found.floor:.3g}", f"{found.ceiling:.3g}")
        for name, by_condition in located.items()
        for found in by_condition.values()
    ]  # fmt: skip
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    headers = ("hidden", "run", "verdict", "layer", "interval", "effect", "floor", "ceiling")
    return html_table(headers, rows)


def _interval(found: Location) -> str:
    return "" if found.interval is None else f"{found.interval[0]}-{found.interval[1]}"


def _html_pair(pair: tuple[str, str], found: list[Difference] | str) -> str:
    heading = f"<h3>{html.escape(pair[0])} (first) against {html.escape(pair[1])} (second)</h3>"
    if isinstance(found, str):
        return f"{heading}<p>Not compared: {html.escape(found)}.</p>"
    return heading + html_differences(found)
