"""What adapters of single layers learnt, as one self-contained HTML page."""

from pathlib import Path

from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.lora import LoraResult
from icl_locate.masking.result import SweepResult
from icl_locate.plots.lora import lora_curves
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.tables import html_table, paragraphs

_WHAT = """One layer at a time, a small adapter was trained to do the task without instructions and
examples; all other weights stayed as they are. Where the task is still to be recognised, tuning is
expected to help most (Sia et al. 2024, section 6)."""


@checked(ResultError)
def write_lora_report(
    path: str | Path,
    tuned: LoraResult,
    result: SweepResult | None = None,
    condition: str | None = None,
) -> Path:
    """Write one HTML page that needs nothing else: curve and table by tuned layer.

    Args:
        result, condition: a masking curve to draw beside it, as `plots.lora_curves` takes it.
    """
    figure = html_figure(
        lora_curves(tuned, result, condition),
        "The score of the model tuned at each layer, with its interval, and without any adapter. "
        "The table below has the numbers.",
    )
    sections = [
        Section("How to read it", paragraphs([_WHAT])),
        Section("By tuned layer", figure + html_table(*lora_rows(tuned))),
    ]
    recorded = tuned.provenance
    best = int(tuned.scores.mean(dim=-1).argmax())
    said = [
        f"Tuned at layer {tuned.layers[best]} the model does best without its context: "
        f"{float(tuned.scores[best].mean()):.3g}, untuned {tuned.untuned:.3g}."
    ]
    if result is not None:
        rho, low, high = tuned.rank_correlation(result, condition)
        said.append(
            f"Rank correlation of this order of layers with the masking curve: {rho:.2f} "
            f"[{low:.2f}, {high:.2f}]."
        )
    title = f"Tuned layer by layer: {recorded.get('task')} in {recorded.get('model')}"
    return write_page(path, title, sections, recorded, finding=said)


@checked(ResultError)
def lora_rows(tuned: LoraResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers, and a row for each tuned layer, as text."""
    low, high = tuned.interval()
    rows: list[tuple[str, ...]] = [
        (str(layer), f"{float(mean):.3g} [{float(low[i]):.3g}, {float(high[i]):.3g}]")
        for i, (layer, mean) in enumerate(zip(tuned.layers, tuned.scores.mean(-1), strict=True))
    ]
    return ("tuned layer", tuned.metric), rows
