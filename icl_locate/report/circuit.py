"""The inference circuit as one self-contained HTML page, as figures and in words."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.circuit import Disconnections, HeadMeasure, LayerMeasure
from icl_locate.errors import ResultError
from icl_locate.plots.circuit import cut_bars, measure_curves, measure_map
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.recipe import CIRCUIT
from icl_locate.report.tables import html_list, paragraphs

Result = LayerMeasure | HeadMeasure | Disconnections
Results = Mapping[str, Result]

_WHAT = """In-context classification may run as a circuit of three steps (Cho et al., ICLR 2025): an
example's text is summed up in its forerunner token s, the last one before its label; the label y
takes that sum over; and the query's forerunner token looks for labels with the sum that it has
itself, and copies what they say. x is the last token of a text."""
_ASKS = {
    "kernel_alignment": """Do states lie near each other where their texts are of the same class?
Of each query's nearest neighbours at a layer, the share that are neighbours by the features that it
is compared with, too.""",
    "label_alignment": """Does a label take over what stands in its forerunner token? Neighbours of
label states at a layer, against those of forerunner states one layer before.""",
    "centroid_probe": """From which layer on can the class be read off? Each prompt is given the
class of the nearest mean state of other prompts.""",
    "forerunner_heads": """Which heads look from a label at its forerunner token? The share of
prompts in which they do, more than five times as much as evenly spread attention would.""",
    "induction_heads": """Which heads look from the query's forerunner token at the examples'
labels, and which of them at the right ones?""",
    "label_assignment": """Of all attention to labels, how much is on those of the query's
class?""",
}


_COUNTED = {
    "forerunner_heads": ("right label", "random token"),
    "induction_heads": ("correct induction", "permuted classes"),
}
"""By measure, the arm that says most, and what it is held against."""


@checked(ResultError, results=anything)
def write_circuit_report(path: str | Path, results: Results, *, confidence: float = 0.95) -> Path:
    """Write one HTML page that needs nothing else: words, a figure a measure, recipes.

    Args:
        results: what the measures gave, by name.
        confidence: of the intervals.

    Raises:
        ResultError: if there are none, or one is no measure of the circuit.
    """
    figures = draw_circuit(results, confidence=confidence)
    words, shown = circuit_words(results), _check(results)
    sections = [Section("How to read it", paragraphs([_WHAT]))]
    sections += [
        Section(
            name.replace("_", " "),
            f"<p>{html.escape(_asks(shown[name]))}</p>{html_list(words[name])}"
            f"{html_figure(figure, _asks(shown[name]))}",
        )
        for name, figure in figures.items()
    ]
    recipe = {name: dict(result.provenance) for name, result in results.items()}
    first = next(iter(results.values())).provenance
    title = f"The inference circuit: {first.get('task')} in {first.get('model')}"
    said = [f"{name.replace('_', ' ')}: {lines[0]}." for name, lines in words.items()]
    return write_page(path, title, sections, recipe, finding=said, papers=(CIRCUIT,))


@checked(ResultError, results=anything)
def draw_circuit(results: Results, *, confidence: float = 0.95) -> dict[str, go.Figure]:
    """A figure of each measure, by its name; of a calibrated score two, with and without.

    Raises:
        ResultError: as `write_circuit_report` does.
    """
    return {name: _draw(one, confidence) for name, one in _check(results).items()}


@checked(ResultError, results=anything)
def circuit_words(results: Results) -> dict[str, list[str]]:
    """What each measure found, by its name, in a few lines.

    Raises:
        ResultError: as `write_circuit_report` does.
    """
    return {name: _tell(one) for name, one in _check(results).items()}


def _check(results: Any) -> Results:
    """The measures; behind a calibrated one the same without calibration."""
    expected = "measures of the circuit by name, at least one"
    if not isinstance(results, Mapping) or not results:
        refuse("results", results, expected, ResultError)
    found: dict[str, Result] = {}
    for name, result in results.items():
        if not isinstance(result, Result):
            refuse(f"results[{name!r}]", result, expected, ResultError)
        found[name] = result
        if result.is_calibrated:
            found[f"{name}_uncalibrated"] = result.uncalibrated()
    return found


def _draw(result: Result, confidence: float) -> go.Figure:
    if isinstance(result, LayerMeasure):
        return measure_curves(result, confidence=confidence)
    if isinstance(result, HeadMeasure):
        return measure_map(result, _shown(result)[0])
    return cut_bars(result, confidence=confidence)


def _asks(result: Result) -> str:
    if isinstance(result, Disconnections):
        return (
            "Which edges does the answer need, and where? Each kind of edges is cut in windows of "
            "layers, beside as many edges of the same rows at random."
        )
    return _ASKS.get(result.metric, result.metric.replace("_", " "))


def _tell(result: Result) -> list[str]:
    alone = ["a single query tells nothing of noise"] * (result.n_items == 1)
    return [*_findings(result), *alone]


def _findings(result: Result) -> list[str]:
    if isinstance(result, LayerMeasure):
        return [_tell_arm(result, arm) for arm in range(len(result.arms))]
    if isinstance(result, HeadMeasure):
        return [_tell_heads(result)]
    return [_tell_cuts(result)]


def _tell_arm(result: LayerMeasure, arm: int) -> str:
    """An arm's highest layer, beside chance."""
    scores = result.scores[arm].mean(dim=-1)
    top = int(scores.argmax())
    low, high = (float(bound[arm, top]) for bound in result.score_interval())
    sure = "" if result.n_items == 1 else f" [{low:.2f}, {high:.2f}]"
    chance = float(result.chance[arm, top])
    beside = f", chance {chance:.2f}" if chance == chance else ""
    return (
        f"{result.arms[arm]}: at most {float(scores[top]):.2f}{sure}, at layer "
        f"{result.layers[top]}{beside}"
    )


def _tell_heads(result: HeadMeasure) -> str:
    """The heads that count more often than by chance."""
    arm, control = _shown(result)
    means = result.scores[result.arms.index(arm)].mean(dim=-1)
    if result.n_items == 1:
        return f"{arm}: {int((means > 0).sum())} heads count"
    said = [
        f"layer {layer}, head {head} ({float(means[layer, head]):.0%} of prompts)"
        for layer, head in result.heads_beyond(control, arm)
    ]
    return f"{arm}, more than {control} beyond noise: {', '.join(said) or 'no head'}"


def _shown(result: HeadMeasure) -> tuple[str, str]:
    """The arm that is told and drawn, and its control."""
    arm, control = _COUNTED.get(result.metric, (result.arms[0], result.arms[-1]))
    if {arm, control} <= {*result.arms}:
        return arm, control
    return result.arms[0], result.arms[-1]


def _tell_cuts(result: Disconnections) -> str:
    """Where cuts cost more than their controls beyond noise."""
    spread = result.beyond_control() if len(result.arms) > 1 else result.damage()[:, 0]
    single = result.n_items == 1
    low = spread.mean if single else spread.interval()[0]
    windows = result.axes["window"]
    said = [
        f"{edge} at layers {window} (-{mean:.2f})"
        for edge, means, lows in zip(result.edges, spread.mean, low, strict=True)
        for window, mean, least in zip(windows, means, lows, strict=True)
        if least > 0
    ]
    beside = "more than as many random edges" if len(result.arms) > 1 else "something"
    sure = "" if single else ", beyond noise"
    return f"cutting costs {beside}{sure}: {', '.join(said) or 'nowhere'}"
