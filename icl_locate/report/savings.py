"""What dropping the context was measured to save, as one self-contained HTML page."""

from pathlib import Path

from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.plots.frame import metric_scale
from icl_locate.plots.savings import savings_curves
from icl_locate.report.figures import html_figure
from icl_locate.report.page import Section, write_page
from icl_locate.report.tables import html_table, paragraphs
from icl_locate.savings import MeasuredSavings

_KEPT = 0.9
_WHAT = """The model answers with its context dropped from a layer on: below, it reads instructions
and examples; from there on they are not computed at all. Time, memory and cache are shares of
ordinary generation on the same machine; times are medians."""


@checked(ResultError)
def write_savings_report(path: str | Path, measured: MeasuredSavings) -> Path:
    """Write one HTML page that needs nothing else: what is saved, and what it costs in answers."""
    figure = html_figure(
        savings_curves(measured),
        "The score over the layer from which the context is dropped, and below it time, memory and "
        "cache as shares of ordinary generation. The table below has the numbers.",
    )
    scale = metric_scale(measured.metric)
    scores = [f"Scores are {measured.metric.replace('_', ' ')}: {scale}."] if scale else []
    sections = [
        Section("How to read it", paragraphs([_WHAT, *scores])),
        Section("Score and cost", figure + html_table(*savings_rows(measured))),
    ]
    recorded = measured.provenance
    title = f"What dropping the context saves: {recorded.get('task')} in {recorded.get('model')}"
    return write_page(path, title, sections, recorded, finding=_finding(measured))


@checked(ResultError)
def savings_rows(measured: MeasuredSavings) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers, and a row for each layer, as text."""
    metric, table = measured.metric, measured.to_dataframe()
    saved = ("prefill_saved", "decode_saved", "peak_saved", "cache_saved")
    rows = [
        (
            str(int(row["from_layer"])),
            f"{row[metric]:.3g} [{row['low']:.3g}, {row['high']:.3g}]",
            *(f"{row[name]:.0%}" for name in saved),
        )
        for _, row in table.iterrows()
    ]
    headers = "from layer", metric, "prefill saved", "decoding saved", "memory saved", "cache saved"
    return headers, rows


def _finding(measured: MeasuredSavings) -> list[str]:
    """The first layer from which the score stays near its best, and what is saved there."""
    scores, whole = measured.scores.tolist(), float(measured.scores[-1])
    kept = [score >= _KEPT * whole for score in scores]
    first = next(i for i in range(len(kept)) if all(kept[i:]) or i == len(kept) - 1)
    if first == len(kept) - 1:
        return [f"Dropped from any layer that ran, the context's loss costs over {1 - _KEPT:.0%}."]
    row = measured.to_dataframe().iloc[first]
    return [
        f"Dropped from layer {measured.layers[first]} on, the context is hardly missed: the score "
        f"is {scores[first]:.3g} instead of {whole:.3g}.",
        f"That saves {row['prefill_saved']:.0%} of the time on the prompt, "
        f"{row['decode_saved']:.0%} of that on the answer, {row['peak_saved']:.0%} of the memory "
        f"and {row['cache_saved']:.0%} of the cache.",
    ]
