"""What forms under which clamps, as one self-contained HTML page, as a table and in words."""

from pathlib import Path
from statistics import median

from icl_locate.checks.signatures import checked, number
from icl_locate.errors import ResultError
from icl_locate.formation import FormationRun, FormationStudy
from icl_locate.formation.result import THRESHOLD
from icl_locate.plots.formation import (
    formation_curves,
    formation_times,
    head_formation,
    product_of_vectors,
    strength_against_only_head,
)
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.recipe import FORMATION
from icl_locate.report.tables import align_table, html_table, paragraphs
from icl_locate.studies.ranks import spearman

_WHAT = """A model of two layers that only attend sees two items with their labels, and one of the
items again: its label can only be found in the context. It learns to find it all at once, late. A
clamp gives it a part of the circuit from the start, at every step, and training has to find the
rest: the earlier it does, the more of the waiting was for that part."""
_TOY = """Why late, and at once: what one of three factors learns is scaled by the two others, so
that nothing moves as long as all are small."""


@checked(ResultError, threshold=number(above=0))
def write_formation_report(
    path: str | Path, study: FormationStudy, *, threshold: float = THRESHOLD
) -> Path:
    """Write one HTML page that needs nothing else: figures, table, recipe.

    Args:
        threshold: of the loss, in nats, to which times are taken.
    """
    headers, *rows = _rows(study, threshold)
    curves = formation_curves(study, threshold=threshold)
    losses = html_figure(curves, "Loss and accuracy over the sequences seen, by what is given.")
    alone = "What each head is worth alone, over its induction strength."
    figures = [
        (formation_times(study, threshold=threshold), "Times to the loss, by what is given."),
        *((strength_against_only_head(run), alone) for run in _whole(study)),
        (head_formation(_shown(study)), "What every head attends to, over training."),
    ]
    heads = "".join(html_figure(figure, says) for figure, says in figures)
    toy = html_figure(product_of_vectors(), "The loss of a product of three vectors over steps.")
    sections = [
        Section("How to read it", paragraphs([_WHAT])),
        Section("What is learnt when", losses + html_table(headers, rows)),
        Section("Heads", heads),
        Section("Why late, and at once", paragraphs([_TOY]) + toy),
    ]
    said = formation_words(study, threshold)
    title = "When induction heads form"
    return write_page(path, title, sections, study.provenance, finding=said, papers=(FORMATION,))


@checked(ResultError)
def formation_table(study: FormationStudy, threshold: float = THRESHOLD) -> str:
    """A row a clamp set, as a table for a terminal."""
    headers, *rows = _rows(study, threshold)
    return align_table(headers, rows)


@checked(ResultError)
def formation_words(study: FormationStudy, threshold: float = THRESHOLD) -> list[str]:
    """What was found, in sentences: the order of times, and which head is worth most alone."""
    times = {
        label: [t for t in of if t is not None] for label, of in study.times(threshold).items()
    }
    learnt = sorted((label for label in times if times[label]), key=lambda x: median(times[x]))
    said = []
    if learnt:
        order = ", then ".join(f"{label} ({median(times[label]):,.0f})" for label in learnt)
        said.append(f"The loss falls below {threshold:.3g} nats first with {order} sequences seen.")
    never = [label for label in times if not times[label]]
    if never:
        end = int(study.sequences[-1])
        said.append(f"Not within {end:,} sequences: {', '.join(never)}.")
    return said + [_say_heads(run) for run in _whole(study)]


def _say_heads(run: FormationRun) -> str:
    """Which heads carry it in a run that may use all of them."""
    strength, alone = run.strengths[-1], run.only_head[-1]
    strongest, best = int(strength.argmax()), int(alone.argmax())
    also = "and is" if strongest == best else f"and head {best} is"
    return (
        f"With all heads, head {strongest} of layer 2 attends most to the right label (strength "
        f"{float(strength.max()):.2f}) {also} the best alone ({float(alone.max()):.0%} right; all "
        f"together {float(run.accuracies[0, -1]):.0%}); rank correlation of the two over heads "
        f"{spearman(strength, alone):.2f}."
    )


def _whole(study: FormationStudy) -> list[FormationRun]:
    """The runs in which every head of layer 2 takes part, of the first seed."""
    return [runs[0] for runs in study.runs.values() if not runs[0].clamps]


def _shown(study: FormationStudy) -> FormationRun:
    """The run whose heads are shown: one with nothing clamped, or the first."""
    return next(iter(_whole(study)), next(iter(study.runs.values()))[0])


def _rows(study: FormationStudy, threshold: float) -> list[list[str]]:
    """Times and ends by clamp set, the earliest first, under a header."""
    end = int(study.sequences[-1])
    sets = [f"{name}, at the end" for name in study.sets]
    rows: dict[str, tuple[float, list[str]]] = {}
    for label, times in study.times(threshold).items():
        said = [f"> {end:,}" if time is None else f"{time:,}" for time in times]
        accuracies = [
            sum(float(run.accuracies[i, -1]) for run in study.runs[label]) / len(times)
            for i in range(len(study.sets))
        ]
        cells = [label, ", ".join(said), *(f"{share:.1%}" for share in accuracies)]
        rows[label] = median(end + 1 if time is None else time for time in times), cells
    ordered = [cells for _, cells in sorted(rows.values(), key=lambda row: row[0])]
    return [["given (clamped)", f"sequences to {threshold:.3g} nats", *sets], *ordered]
