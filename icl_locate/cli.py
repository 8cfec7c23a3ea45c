"""The command line: ``icl-locate demo`` and ``icl-locate sweep``.

Everything heavy is imported inside the commands, so that ``--help`` answers at once.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from icl_locate.errors import IclLocateError


@dataclass(frozen=True)
class SweepConfig:
    """Hide the context from each layer on, score the model, and locate the recognition layer.

    Writes into the output directory: result.safetensors with result.json, scores.csv, report.html
    and layer_curves.png.
    """

    task: Annotated[str, tyro.conf.Positional] = "pseudo-translation"
    """pseudo-translation, pseudo-translation/LANGUAGE, pseudo-python, or a .jsonl file whose lines
    have "source", "target" and optionally "split" (train or test)."""

    model: str = "embedded"
    """embedded, a name on the Hugging Face Hub, or a local directory."""

    output: Path = Path("runs/sweep")
    """Directory for what is written; made if it is not there."""

    conditions: tuple[str, ...] = ()
    """What to hide: any of "examples", "instructions+examples", "examples, instructions kept",
    "query", "everything", "all but self". Default: all that the task's prompts allow."""

    metric: str | None = None
    """bleu, chrf, exact_match, token_accuracy or log_prob. Default: the task's."""

    n_shots: int = 5
    """Examples in each prompt."""

    n_queries: int | None = None
    """Queries to answer: the first of the task's test set. Default: 64, or all that there are."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws other examples for the same queries."""

    choice: Literal["random", "balanced"] = "random"
    """How examples are drawn: at random, or balanced over the targets."""

    instruction: str | None = None
    """Instruction that opens the prompts of a .jsonl task. Default: none."""

    source_prefix: str | None = None
    """What stands before a source in the prompts of a .jsonl task. Default: "Q:"."""

    target_prefix: str | None = None
    """What stands before a target in the prompts of a .jsonl task. Default: "A:"."""

    separator: str | None = None
    """What stands after an example in the prompts of a .jsonl task. Default: a line break."""

    prepend_bos: bool | None = None
    """Whether prompts start with BOS. Default: as the model's tokenizer does."""

    max_new_tokens: int = 50
    """Length at which an answer ends if no stop string ended it before."""

    batch_size: int = 64
    """Prompts that run at once."""

    token_budget: int | None = None
    """Most tokens that the shared engine holds at once. Default: what free memory allows."""

    engine: Literal["auto", "shared", "hooks"] = "auto"
    """shared: one pass for all start layers and conditions; hooks: one hooked run for each cell;
    auto: shared wherever it is exact."""

    device: str | None = None
    """cpu, cuda, ... Default: a GPU if there is one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model's weights."""

    confidence: float = 0.95
    """Of the intervals."""

    quiet: bool = False
    """No progress bar."""


@dataclass(frozen=True)
class DemoConfig:
    """Find the task-recognition layer of the embedded model, in under a minute.

    Hides the context of 5-shot translation prompts from every layer on, under the six conditions of
    Sia et al., and writes figures, a table and a self-contained page.
    """

    output: Path = Path("runs/demo")
    """Directory for what is written; made if it is not there."""

    n_queries: int = 32
    """Sentences to translate."""

    seeds: tuple[int, ...] = (0, 1)
    """Each draws other examples for the same sentences."""

    quiet: bool = False
    """No progress bar."""


def run_sweep(config: SweepConfig) -> None:
    """Run a sweep and write what it found."""
    import icl_locate as icl
    from icl_locate.location import check_confidence

    check_confidence(config.confidence)
    _check_output(config.output)
    task = _load_task(config)
    conditions = config.conditions or _possible_conditions(task, config.n_shots)
    model = icl.load_model(config.model, device=config.device, dtype=config.dtype)
    result = icl.sweep(
        model,
        task,
        conditions=conditions,
        n_shots=config.n_shots,
        n_queries=config.n_queries or min(64, len(task.test)),
        seeds=config.seeds,
        metric=config.metric,
        choice=config.choice,
        prepend_bos=config.prepend_bos,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        token_budget=config.token_budget,
        engine=config.engine,
        progress=not config.quiet,
    )
    _write(result, config.output, config.confidence)


def run_demo(config: DemoConfig) -> None:
    """Run the main job on the embedded model."""
    import icl_locate as icl
    from icl_locate import plots

    _check_output(config.output)
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
    _write(result, config.output, 0.95, {"prompt_segments": plots.prompt_segments(model, prompts)})


Command = (
    Annotated[DemoConfig, tyro.conf.subcommand("demo")]
    | Annotated[SweepConfig, tyro.conf.subcommand("sweep")]
)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run a command; returns the exit status."""
    config: DemoConfig | SweepConfig = tyro.cli(
        Command,
        config=(tyro.conf.OmitArgPrefixes,),
        prog="icl-locate",
        description="Find where in a language model in-context learning happens.",
        args=arguments,
    )
    try:
        if isinstance(config, DemoConfig):
            run_demo(config)
        else:
            run_sweep(config)
    except IclLocateError as error:
        print(f"icl-locate: {error}", file=sys.stderr)
        return 2
    return 0


def _load_task(config: SweepConfig) -> Any:
    import icl_locate as icl

    names = ("instruction", "source_prefix", "target_prefix", "separator")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    template = icl.PromptTemplate(**given) if given else None
    return icl.load_task(config.task, template=template)


def _possible_conditions(task: Any, n_shots: int) -> tuple[str, ...]:
    import icl_locate as icl

    possible = tuple(
        condition.name
        for condition in icl.PAPER_CONDITIONS
        if (task.template.instruction is not None or not condition.instruction)
        and (n_shots > 0 or icl.Segment.EXAMPLES not in condition.hide)
    )
    if not possible:
        raise IclLocateError(
            "these prompts have neither instruction nor examples to hide: give --instruction, or "
            "1 or more with --n-shots"
        )
    return possible


def _check_output(output: Path) -> None:
    """Refuse, before anything runs, a directory that could not be written."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise IclLocateError(f"nothing can be written to {output}: {existing} is in the way")


def _write(
    result: Any, output: Path, confidence: float, more: dict[str, Any] | None = None
) -> None:
    import icl_locate as icl
    from icl_locate import plots
    from icl_locate.report import text_table, write_png

    written = [result.save(output / "result.safetensors")]
    locations = icl.locate(result, confidence=confidence)
    figures = {"layer_curves": plots.layer_curves(result, locations), **(more or {})}
    written.append(output / "scores.csv")
    result.to_dataframe().to_csv(written[-1], index=False)
    others = [figure for name, figure in figures.items() if name != "layer_curves"]
    written.append(icl.write_report(result, output / "report.html", locations, others))
    problem = None
    for name, figure in figures.items():
        path = output / f"{name}.png"
        problem = problem or write_png(figure, path, height=int(figure.layout.height or 600))
        if problem is None:
            written.append(path)
    print(text_table(locations))
    print("\nwritten:", *written, sep="\n  ")
    if problem is not None:
        print(f"no PNG: it takes a Chrome or Chromium on this machine ({problem})")


if __name__ == "__main__":
    sys.exit(main())
