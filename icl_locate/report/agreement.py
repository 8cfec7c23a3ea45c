"""What several methods say together, as one self-contained HTML page."""

import html
from pathlib import Path

from icl_locate.agreement import Agreement
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.plots.agreement import agreement
from icl_locate.plots.frame import to_html
from icl_locate.report.page import html_table, write_page

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
    body = f"""<p>{html.escape(_WHAT)}</p>
<pre>{html.escape(agreed.summary)}</pre>
{to_html(agreement(agreed), with_script=True)}
{html_table(headers, rows)}
<h2>Differences</h2>
{html_table(between, pairs)}"""
    recorded = agreed.provenance
    title = f"Where do the methods agree? {recorded.get('task')} in {recorded.get('model')}"
    return write_page(path, title, body, recorded)


def _say(layer: int | None, interval: tuple[int, int] | None) -> str:
    if layer is None:
        return ""
    return str(layer) if interval is None else f"{layer} [{interval[0]}, {interval[1]}]"
