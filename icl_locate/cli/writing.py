"""What the commands write: results, tables, pages and pictures."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_locate.cli.config_file import CONFIG, write_config
from icl_locate.cli.earlier import with_settings
from icl_locate.records.files import replace_file

WRITTEN = (
    "result.safetensors", "scores.csv", "scores.recipe.json", "answers.csv",
    "answers.recipe.json", "report.html", CONFIG,
)  # fmt: skip
"""What every sweep writes."""


def write_table(table: Any, path: Path, recipe: Mapping[str, Any]) -> list[Path]:
    """Write a table as CSV, and beside it NAME.recipe.json, which says where it comes from."""
    rows = table.to_csv(index=False, lineterminator="\n")
    if "\r" in rows:  # which Python leaves bare, and readers take for the end of a row
        rows = table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    text = json.dumps(dict(recipe), indent=1, ensure_ascii=False, default=str)
    return [
        replace_file(path, [rows.encode()]),
        replace_file(path.with_suffix(".recipe.json"), [text.encode()]),
    ]


def write_result(
    result: Any,
    config: Any,
    output: Path,
    confidence: float,
    more: dict[str, Any] | None = None,
    reference: str | None = None,
) -> None:
    """Write a result with its table, figures and page, and say what was written.

    Args:
        config: the command's options.
        more: other figures for the page, by name.
        reference: a preset whose published curves are laid under the result's.
    """
    import icl_locate as icl
    from icl_locate import plots
    from icl_locate.masking.importance import layer_importance
    from icl_locate.masking.published import SIA2024_TRANSLATION
    from icl_locate.report.sweep import (
        importance_table,
        text_table,
        uncalibrated_table,
        write_importance_report,
    )

    result = with_settings(result, config)
    written = [result.save(output / "result.safetensors")]
    for rows, name in (("cell", "scores"), ("answer", "answers")):
        written += write_table(result.to_dataframe(rows), output / f"{name}.csv", result.provenance)
    if result.provenance.get("scope", "from") == "from":
        locations = icl.locate(result, confidence=confidence)
        same = result.provenance["task"] == "flores/en-fr" and result.metric.startswith("bleu_lc")
        published = SIA2024_TRANSLATION if reference == "sia2024-translation" and same else ()
        curves = plots.layer_curves(result, locations, reference=published)
        figures = {"layer_curves": curves, **(more or {})}
        others = [figure for name, figure in figures.items() if name != "layer_curves"]
        written.append(icl.write_report(result, output / "report.html", locations, others))
        table = text_table(locations) + uncalibrated_table(result, locations[0])
    else:
        found = layer_importance(result, confidence=confidence)
        figures = {"layer_importance": plots.importance_curves(result, found)}
        written.append(write_importance_report(result, output / "report.html", found))
        table = importance_table(found)
    problem = write_pngs(figures, output, written)
    print(table)
    say_written(config, written, problem)


def write_shots(results: dict[int, Any], config: Any) -> None:
    """One figure a condition: the curves for each number of shots."""
    from icl_locate import plots

    conditions = next(iter(results.values())).conditions
    figures = {
        f"shots_{i}_{condition.replace(' ', '_').replace(',', '')}": plots.shots_curves(
            results, condition
        )
        for i, condition in enumerate(conditions)
    }
    written: list[Path] = []
    say_written(config, written, write_pngs(figures, config.output, written))


def say_written(
    config: Any, written: list[Path], problem: str | None, *, keep_config: bool = False
) -> None:
    """Write the options, too; say what was written, and why there are no pictures if so.

    Args:
        keep_config: whether the output directory's options are another command's, and stay.
    """
    if not keep_config:
        written.append(write_config(config))
    print("\nwritten:", *written, sep="\n  ")
    if problem is not None:
        print(f"no PNG: it takes a Chrome or Chromium on this machine ({problem})")


def write_pngs(figures: dict[str, Any], output: Path, written: list[Path]) -> str | None:
    """Write figures as PNG, as far as this machine can; returns why it could not."""
    from icl_locate.report.page import write_png

    problem = None
    for name, figure in figures.items():
        path = output / f"{name}.png"
        problem = problem or write_png(figure, path, height=int(figure.layout.height or 600))
        if problem is None:
            written.append(path)
    return problem
