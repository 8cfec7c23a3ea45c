"""What several methods say together, as one self-contained HTML page."""

import html
from pathlib import Path

from icl_locate.agreement import Agreement
from icl_locate.agreement.summary import together
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.plots.agreement import agreement
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.recipe import CIRCUIT, FUNCTION_VECTORS, METHOD, TASK_VECTORS
from icl_locate.report.tables import html_table, paragraphs

_WHAT = """Each method asks another question of the same model, on the same queries; all answers
stand on one axis. Layer L is the residual stream that enters layer L: 0 is the embedding, the last
one what leaves the model's last layer. Differences are taken draw by draw, on the same items where
two methods have them, so that they may be surer than the two intervals look."""


@checked(ResultError)
def write_agreement_report(path: str | Path, agreed: Agreement) -> Path:
    """Write one HTML page that needs nothing else: summary, figure, tables, recipe.

    Raises:
        ResultError: if the metric is not known here.
    """
    headers = ("method", "layer", "effect", "in", "seconds", "prompts")
    rows = [
        (
            one.method, one.label, one.worth, one.metric.replace("_", " "), f"{one.seconds:.1f}",
            str(one.n_prompts),
        )
        for one in agreed.witnesses
    ]  # fmt: skip
    pairs = [
        (*one.methods, _say(one.layer, one.interval), one.verdict, one.paired)
        for one in agreed.differences
    ]
    between = ("method", "other", "layers later", "verdict", "share")
    figure = html_figure(
        agreement(agreed),
        "A row for each method over one axis of layers: its curve, and the layer that it tells "
        "with its interval. The table below has the layers.",
    )
    summary = f"<pre>{html.escape(agreed.summary)}</pre>"
    sections = [
        Section("How to read it", paragraphs([_WHAT])),
        Section("Summary", summary),
        Section("Methods", figure + html_table(headers, rows)),
        Section("Differences", html_table(between, pairs)),
    ]
    recorded = agreed.provenance
    title = f"Where do the methods agree? {recorded.get('task')} in {recorded.get('model')}"
    papers = METHOD, TASK_VECTORS, FUNCTION_VECTORS, CIRCUIT
    return write_page(path, title, sections, recorded, finding=_finding(agreed), papers=papers)


def _finding(agreed: Agreement) -> list[str]:
    """Who agrees and who differs, and what each method says."""
    said = together(agreed.witnesses, agreed.differences)
    told = [f"{one.method}: {one.label}." for one in agreed.witnesses]
    return [*(line.strip() for line in said if line.strip()), *told]


def _say(layer: int | None, interval: tuple[int, int] | None) -> str:
    if layer is None:
        return ""
    return str(layer) if interval is None else f"{layer} [{interval[0]}, {interval[1]}]"
