"""``icl-locate triangulate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl_locate.cli import options
from icl_locate.cli.earlier import check_earlier, with_settings
from icl_locate.cli.loading import load_chosen_model, load_scored_task
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output

Name = Literal[
    "masking", "single_layer", "disconnections", "task_vector", "many_positions",
    "function_vector", "kernel_alignment", "probe", "lora",
]  # fmt: skip


@dataclass(frozen=True)
class TriangulateConfig(
    options.Kept,
    options.Quiet,
    options.Replacing,
    options.Batched,
    options.Shots,
    options.Intervals,
    options.Answers,
):
    """Locate a task by several methods, and say on one layer axis where they agree.

    Writes into the output directory: agreement.safetensors, agreement.csv with
    agreement.recipe.json, differences.csv with differences.recipe.json, agreement.html and
    agreement.png; adapters into lora/ where that method is named.
    """

    command: ClassVar[str] = "triangulate"

    output: Path = Path("runs/triangulate")

    methods: tuple[Name, ...] = ()
    """Which. Default: all that train nothing, but for those that the task cannot serve."""

    n_heads: int | None = None
    """Heads that write the function vector. Default: 10."""

    preset: Literal["sia2024", "sia2024-v1"] | None = None
    """How lora trains, where it is named. Default: sia2024."""

    n_queries: int = 32

    def check(self) -> None:
        """Refuse methods that stand there twice, and options of methods that do not run."""
        if len(set(self.methods)) < len(self.methods):
            raise IclLocateError(
                f"--methods is {' '.join(self.methods)}: expected each method once"
            )
        if self.n_heads is not None and self.n_heads < 1:
            raise IclLocateError(f"--n-heads is {self.n_heads}: expected 1 or more")
        if self.n_heads is not None and self.methods and "function_vector" not in self.methods:
            raise IclLocateError("--n-heads is for function_vector, which does not run: name it")
        if self.device_map is not None and "lora" in self.methods:
            raise IclLocateError(
                f"--device-map is {self.device_map!r}, but lora trains on one device: leave one out"
            )
        if self.preset is not None and "lora" not in self.methods:
            raise IclLocateError("--preset is for lora, which does not run: name it in --methods")


def run_triangulate(config: TriangulateConfig) -> None:
    """Run all methods, and write what they say together."""
    import icl_locate as icl
    from icl_locate import plots
    from icl_locate.report.agreement import write_agreement_report

    result, page = config.output / "agreement.safetensors", config.output / "agreement.html"
    table, between = config.output / "agreement.csv", config.output / "differences.csv"
    recipes = [path.with_suffix(".recipe.json").name for path in (table, between)]
    check_output(config.output, (result.name, page.name, table.name, between.name, *recipes))
    check_earlier(config, result)
    task, metric = load_scored_task(config)
    model = load_chosen_model(config, result)
    agreed = icl.triangulate(
        model,
        task,
        config.methods or None,
        n_shots=config.n_shots,
        n_queries=min(config.n_queries, len(task.test)),
        seeds=config.seeds,
        metric=metric,
        max_new_tokens=config.max_new_tokens,
        confidence=config.confidence,
        batch_size=config.batch_size,
        progress=not config.quiet,
        **_own(config),
    )
    agreed = with_settings(agreed, config)
    written = [agreed.save(result)]
    written += write_table(agreed.to_dataframe(), table, agreed.provenance)
    written += write_table(agreed.to_dataframe("difference"), between, agreed.provenance)
    written.append(write_agreement_report(page, agreed))
    problem = write_pngs({"agreement": plots.agreement(agreed)}, config.output, written)
    print(agreed)
    say_written(config, written, problem)


def _own(config: TriangulateConfig) -> dict[str, Any]:
    """Options of single methods."""
    found: dict[str, Any] = {}
    if config.n_heads is not None:
        found["function_vector"] = {"n_heads": config.n_heads}
    if "lora" in config.methods:
        names = "model", "revision", "device", "dtype"
        found["lora"] = {
            **{name: getattr(config, name) for name in names},
            "output": config.output / "lora",
            "config": config.preset,
        }
    return found
