"""Head scores and ablations as one self-contained HTML page, and as text."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icl_locate import plots
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.induction import AblationResult, Comparison, HeadEffects, HeadScores
from icl_locate.induction.scores import INDUCTION
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.recipe import INDUCTION as PAPER
from icl_locate.report.tables import align_table, html_table, paragraphs

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "layer", "head", "induction", "copying", "previous_token", "loss", "loss_low", "loss_high",
)  # fmt: skip
_HEAD_HEADERS = (
    "layer", "head", "induction", "copying", "previous token", "lost without it", "from", "to",
)  # fmt: skip
_HEADERS = (
    "done to heads", "share", "shots", "whole", "without induction", "without random", "difference",
    "p", "rank p",
)  # fmt: skip


@checked(ResultError)
def write_head_report(
    path: str | Path,
    scores: HeadScores,
    effects: HeadEffects | None,
    result: AblationResult,
    comparisons: Sequence[Comparison],
) -> Path:
    """Write one HTML page that needs nothing else: head map, scores beside effects, ablations."""
    chosen = max((arm.heads for arm in result.arms if arm.kind == "induction"), key=len)
    drawn = html_figure(
        plots.head_map(scores, marked=chosen),
        "A map of the induction score of every head, layer by head; framed are those taken out.",
    )
    bars = html_figure(
        plots.ablation_bars(result, comparisons),
        "Bars of the score of the whole model, without induction heads, and without random heads.",
    )
    curves = html_figure(
        plots.fraction_curves(result, comparisons),
        "Curves of the score over the share of heads taken out.",
    )
    title = f"Induction heads: {result.provenance.get('task')} in {result.provenance.get('model')}"
    table = scores.to_dataframe(effects).head(32)
    how = "not measured" if effects is None else effects.method
    what = f"""A head's induction score is the attention that it pays, on repeated random tokens,
to what followed the same token before, less what it pays to the same places where nothing repeats;
the least over all lengths. Framed: the heads that were taken out. A score is no effect: the table
shows both. {scored_on(scores)}"""
    lost = f"""Lost without it: the log-probability of the targets (nats) that is lost when this
head alone is ablated ({how}), with its 95 % interval."""
    sections = [
        Section("How to read it", paragraphs([what])),
        Section("Every head", drawn),
        Section(
            "Scores and causal effects",
            paragraphs([lost]) + html_table(_HEAD_HEADERS, head_rows(table)),
        ),
        Section(
            "Without the heads", bars + curves + html_table(_HEADERS, comparison_rows(comparisons))
        ),
        Section("Without calibration (95 % intervals)", _html_uncalibrated(result)),
    ]
    said = [found_heads(scores), *map(_tell, comparisons)]
    return write_page(path, title, sections, result.provenance, finding=said, papers=(PAPER,))


def _tell(found: Comparison) -> str:
    """What taking induction heads out costs more than taking out others, as a sentence."""
    sure = "" if math.isnan(found.p_value) else f" (p = {found.p_value:.2g})"
    return (
        f"With {found.share} of the heads put to {found.intervention.replace('_', ' ')}, "
        f"{found.n_shots} shots: without induction heads {_with_interval(found.induction)}, "
        f"without random heads {_with_interval(found.random)}, whole "
        f"{_with_interval(found.full)}{sure}."
    )


def _html_uncalibrated(result: AblationResult) -> str:
    """What the same runs score without calibration; of other metrics nothing."""
    if not result.is_calibrated:
        return ""
    rows = comparison_rows(result.uncalibrated().compare())
    return html_table(_HEADERS, rows, caption="Without the heads, without calibration")


def found_heads(scores: HeadScores) -> str:
    """What the scores say of the model, in one sentence: how many induction heads, or none.

    A head counts from `INDUCTION` on.
    """
    found = scores.induction
    best = float(found.max())
    layer, head = divmod(int(found.argmax()), found.shape[1])
    where = f"layer {layer}, head {head}"
    n_found = int((found >= INDUCTION).sum())
    if not n_found:
        return (
            f"No head of this model is an induction head: the best score is {best:.3f} ({where}), "
            f"less than {INDUCTION}, a tenth of its attention."
        )
    verb = "scores" if n_found == 1 else "score"
    return (
        f"{n_found} of {found.numel()} heads {verb} {INDUCTION} or more; the best is {where}: "
        f"{best:.3f}."
    )


def scored_on(scores: HeadScores) -> str:
    """Which token sequences the scores were measured on, in one sentence."""
    *others, last = map(str, scores.lengths)
    lengths = f"{', '.join(others)} and {last}" if others else last
    n_copies, n_tokens = (scores.provenance.get(name, "?") for name in ("n_copies", "n_tokens"))
    source = {
        "vocabulary": f"drawn from the vocabulary's {n_tokens} tokens that ordinary texts hold",
        "tokens": f"drawn from {n_tokens} given tokens",
        "sequences": f"the first of given sequences of {n_tokens} different tokens",
    }.get(str(scores.provenance.get("drawn_from")), "from a source that is not known")
    return f"Scored on {n_copies} copies of {lengths} tokens, {source}."


def head_rows(table: "pd.DataFrame") -> list[tuple[str, ...]]:
    """A table of heads as text; without effects, their columns are empty."""
    return [
        (str(layer), str(head), *(f"{score:.3f}" for score in scores), *map(_number, losses))
        for layer, head, *rest in table.reindex(columns=list(_COLUMNS)).itertuples(index=False)
        for scores, losses in [(rest[:3], rest[3:])]
    ]


def head_table(table: "pd.DataFrame") -> str:
    """A table of heads for a terminal."""
    return align_table(_HEAD_HEADERS, head_rows(table))


def comparison_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """The comparisons as text, one row each."""
    return [
        (
            found.intervention,
            found.share,
            str(found.n_shots),
            *(_with_interval(score) for score in (found.full, found.induction, found.random)),
            _with_interval(found.difference),
            _number(found.p_value),
            _number(found.rank_p),
        )
        for found in comparisons
    ]


def comparison_table(comparisons: Sequence[Comparison], metric: str) -> str:
    """The comparisons for a terminal."""
    return f"{metric}:\n{align_table(_HEADERS, comparison_rows(comparisons))}"


def _with_interval(score: tuple[float, float, float]) -> str:
    mean, low, high = map(_number, score)
    return f"{mean} [{low}, {high}]" if low and high else mean


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{round(value, 9) + 0.0:.3g}"
