"""Which heads learnt gates keep, as one self-contained HTML page."""

from collections.abc import Collection
from pathlib import Path

from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.gates import GatesResult
from icl_locate.plots.gates import gate_map, pruning_curve
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.tables import html_table, paragraphs

_WHAT = {
    "prune": """A gate for each head was learnt while the model stayed as it is: it closes what the
task can do without. What stayed open is enough; that a head closed does not say that it does
nothing, only that others make up for it.""",
    "break": """A gate for each head was learnt while the model stayed as it is: it closes what
hurts the task most, and as little as possible. What closed is needed.""",
}


@checked(ResultError)
def write_gates_report(path: str | Path, found: GatesResult) -> Path:
    """Write one HTML page that needs nothing else: which heads are needed, and the curve."""
    drawn = html_figure(
        gate_map(found), "A map of every head's gate, layer by head; framed are those needed."
    )
    curve = html_figure(
        pruning_curve(found), "The score as more and more heads are closed, the lowest gate first."
    )
    rows = [("needed", _listed(found.needed)), ("can go", _listed(found.can_go))]
    sections = [
        Section("How to read it", paragraphs([_WHAT[found.objective]])),
        Section("Every head", drawn + html_table(("heads", "layer.head"), rows, words=True)),
        Section("As heads are closed", curve),
    ]
    recorded = found.provenance
    n = found.alpha.numel()
    said = [
        f"{len(found.needed)} of {n} heads are needed, {len(found.can_go)} can go.",
        f"The score is {found.whole:.3g} with all heads, {found.pruned:.3g} with those of "
        "closed gates left out.",
        *(f"Careful: {doubt}." for doubt in found.doubts),
    ]
    title = f"Gates of heads: {recorded.get('task')} in {recorded.get('model')}"
    return write_page(path, title, sections, recorded, finding=said)


def _listed(heads: Collection[tuple[int, int]]) -> str:
    return " ".join(f"{layer}.{head}" for layer, head in sorted(heads)) or "none"
