"""``icl-locate demo``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from icl_locate.cli import options
from icl_locate.cli.earlier import check_earlier
from icl_locate.cli.writing import WRITTEN, write_result
from icl_locate.records.files import check_output


@dataclass(frozen=True)
class DemoConfig(options.Quiet, options.Seeds, options.Output):
    """Find the task-recognition layer of the embedded model, in under a minute.

    Hides the context of 5-shot translation prompts from every layer on, under the six conditions of
    Sia et al., and writes figures, a table and a self-contained page.
    """

    command: ClassVar[str] = "demo"

    output: Path = Path("runs/demo")

    seeds: tuple[int, ...] = (0, 1)

    n_queries: int = 32
    """Sentences to translate."""


def run_demo(config: DemoConfig) -> None:
    """Run the main job on the embedded model."""
    import icl_locate as icl
    from icl_locate import plots

    check_output(config.output, WRITTEN)
    check_earlier(config, config.output / "result.safetensors")
    task = icl.load_task("pseudo-translation")
    model = icl.load_model(device="cpu")
    result = icl.sweep(
        model,
        task,
        n_queries=config.n_queries,
        seeds=config.seeds,
        max_new_tokens=12,
        progress=not config.quiet,
    )
    prompts = icl.build_prompts(model, task.test[:1], examples=task.train, template=task.template)
    shown = {"prompt_segments": plots.prompt_segments(model, prompts)}
    write_result(result, config, config.output, 0.95, shown)
