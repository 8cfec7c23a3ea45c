"""The command line: ``icl-locate demo`` and ``icl-locate sweep``.

Everything heavy is imported inside the commands, so that ``--help`` answers at once.
"""

import os
import sys
from dataclasses import dataclass, replace
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
    """pseudo-translation, pseudo-translation/LANGUAGE, pseudo-python, flores/SOURCE-TARGET,
    humaneval, a .csv file with the columns "text" and "label", or a .jsonl file whose lines have
    "source", "target" and optionally "split" (train or test)."""

    preset: Literal["sia2024-translation", "sia2024-code"] | None = None
    """Complete settings of a published experiment; what is given beside it goes before."""

    direction: str = "en-fr"
    """Languages of the translation preset: en-fr, en-pt, ..."""

    data: Path | None = None
    """Directory of FLORES's or HumanEval's files. Default: they come from the Hugging Face Hub."""

    model: str = "embedded"
    """embedded, a name on the Hugging Face Hub, or a local directory."""

    output: Path = Path("runs/sweep")
    """Directory for what is written; made if it is not there."""

    conditions: tuple[str, ...] = ()
    """What to hide: any of "examples", "instructions+examples", "examples, instructions kept",
    "query", "everything", "all but self". Default: all that the task's prompts allow."""

    conditions_file: Path | None = None
    """Conditions of your own: a TOML file of tables [[condition]] with name, hide (a list of
    segments) and optionally instruction and keep_self."""

    scope: str = "from"
    """Where a mask that starts at a layer acts: from (it on), only (there), or window:W."""

    compat: Literal["sia2024"] | None = None
    """Hide exactly the columns that the code of Sia et al. hides."""

    shots: tuple[int, ...] = ()
    """Numbers of examples to sweep over, such as 1 3 5 7 9. Default: only --n-shots."""

    metric: str | None = None
    """bleu, bleu_lc (both with :TOKENISER or :first_sentence), chrf, exact_match, token_accuracy,
    log_prob or pass@1. Default: the task's."""

    run_code: bool = False
    """Run the programs that the model writes, in the sandbox: pass@1 asks for it."""

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

    dry_run: bool = False
    """Say what would run and what it would take, and stop; loads no weights."""

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
    """Run a sweep, or one for each number of shots, and write what was found."""
    import icl_locate as icl
    from icl_locate.location import check_confidence

    config = _with_preset(config)
    check_confidence(config.confidence)
    _check_output(config.output)
    task = _load_task(config)
    metric = config.metric or task.metric
    if metric == "pass@1" and not (config.run_code or config.dry_run):
        raise IclLocateError(
            "pass@1 runs the programs that the model writes: add --run-code if you want that (they "
            "run in the sandbox), or choose another --metric"
        )
    shots = config.shots or (config.n_shots,)
    conditions = _conditions(config, task, min(shots))
    n_queries = min(config.n_queries or 64, len(task.test))
    if config.preset or config.dry_run:
        _announce(config, task, conditions, n_queries, shots)
    if config.dry_run:
        return
    model = icl.load_model(config.model, device=config.device, dtype=config.dtype)
    results = {}
    for n_shots in shots:
        output = config.output / f"shots_{n_shots}" if config.shots else config.output
        results[n_shots] = icl.sweep(
            model,
            task,
            conditions=conditions,
            n_shots=n_shots,
            n_queries=n_queries if config.preset else config.n_queries or n_queries,
            seeds=config.seeds,
            metric=metric,
            choice=config.choice,
            prepend_bos=config.prepend_bos,
            max_new_tokens=config.max_new_tokens,
            scope=config.scope,
            compat=config.compat,
            batch_size=config.batch_size,
            token_budget=config.token_budget,
            engine=config.engine,
            progress=not config.quiet,
        )
        _write(results[n_shots], output, config.confidence, reference=config.preset)
    if config.shots and config.scope == "from":
        _write_shots(results, config.output)


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
    return icl.load_task(config.task, template=template, data=config.data)


def _with_preset(config: SweepConfig) -> SweepConfig:
    """The preset's values, for all options that were left at their defaults."""
    from icl_locate.presets import PRESETS

    if config.preset is None:
        return config
    defaults = SweepConfig()
    given = {
        name: value.format(direction=config.direction) if name == "task" else value
        for name, value in PRESETS[config.preset].items()
        if getattr(config, name) == getattr(defaults, name)
    }
    return replace(config, **given)


def _conditions(config: SweepConfig, task: Any, n_shots: int) -> tuple[Any, ...]:
    import tomllib

    import icl_locate as icl

    if config.conditions_file is None:
        return config.conditions or _possible_conditions(task, n_shots)
    if config.conditions:
        raise IclLocateError("give either --conditions or --conditions-file, not both")
    try:
        tables = tomllib.loads(config.conditions_file.read_text("utf-8"))["condition"]
        return tuple(
            icl.Condition(**table | {"hide": {icl.Segment[name] for name in table["hide"]}})
            for table in tables
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise IclLocateError(f"{config.conditions_file} cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise IclLocateError(
            f"{config.conditions_file} is no list of conditions ({error}): expected tables "
            '[[condition]] with name = "...", hide = ["EXAMPLES", ...] and optionally instruction '
            "and keep_self, segments being BOS, INSTRUCTIONS, EXAMPLES, QUERY and GENERATED"
        ) from error


def _announce(
    config: SweepConfig, task: Any, conditions: Any, n_queries: int, shots: tuple[int, ...]
) -> None:
    """Print what will run, and what it will take."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from icl_locate.conditions import get_condition
    from icl_locate.estimates import Shape, estimate_sweep, measure_speed
    from icl_locate.models import embedded_directory, loading_error, resolve_device

    where = embedded_directory() if config.model == "embedded" else config.model
    try:
        shape = Shape.of(AutoConfig.from_pretrained(where))
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise loading_error(str(where), error) from error
    chosen = [get_condition(condition) for condition in conditions]
    metric = config.metric or task.metric
    print(f"model       {config.model}: {shape.n_layers} layers, d={shape.d_model}")
    print(f"task        {task.name}: {n_queries} queries, {len(task.train)} examples to draw from")
    print(f"conditions  {'; '.join(c.name for c in chosen)}; {config.scope} each layer")
    print(f"shots       {', '.join(map(str, shots))}; seeds {', '.join(map(str, config.seeds))}")
    print(f"metric      {metric}, at most {config.max_new_tokens} new tokens")
    print(f"output      {config.output}")
    device = resolve_device(config.device)
    speed = measure_speed(device, getattr(torch, config.dtype))
    for n_shots in shots:
        estimate = estimate_sweep(
            tokenizer,
            shape,
            task,
            chosen,
            n_shots=n_shots,
            n_queries=n_queries,
            n_seeds=len(config.seeds),
            max_new_tokens=config.max_new_tokens,
            generates=metric != "log_prob",
            choice=config.choice,
        )
        print(f"{n_shots} shots: {estimate.describe(speed)}")


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
    result: Any,
    output: Path,
    confidence: float,
    more: dict[str, Any] | None = None,
    reference: str | None = None,
) -> None:
    import icl_locate as icl
    from icl_locate import plots
    from icl_locate.importance import layer_importance
    from icl_locate.reference import SIA2024_TRANSLATION
    from icl_locate.report import importance_table, text_table

    written = [result.save(output / "result.safetensors"), output / "scores.csv"]
    result.to_dataframe().to_csv(written[-1], index=False)
    if result.provenance.get("scope", "from") == "from":
        locations = icl.locate(result, confidence=confidence)
        published = SIA2024_TRANSLATION if reference == "sia2024-translation" else ()
        curves = plots.layer_curves(result, locations, reference=published)
        figures = {"layer_curves": curves, **(more or {})}
        others = [figure for name, figure in figures.items() if name != "layer_curves"]
        written.append(icl.write_report(result, output / "report.html", locations, others))
        table = text_table(locations)
    else:
        found = layer_importance(result, confidence=confidence)
        figures = {"layer_importance": plots.importance_curves(result, found)}
        table = importance_table(found)
    problem = _write_pngs(figures, output, written)
    print(table)
    print("\nwritten:", *written, sep="\n  ")
    if problem is not None:
        print(f"no PNG: it takes a Chrome or Chromium on this machine ({problem})")


def _write_shots(results: dict[int, Any], output: Path) -> None:
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
    _write_pngs(figures, output, written)
    print("\nwritten:", *written, sep="\n  ")


def _write_pngs(figures: dict[str, Any], output: Path, written: list[Path]) -> str | None:
    """Write figures as PNG, as far as this machine can; returns why it could not."""
    from icl_locate.report import write_png

    problem = None
    for name, figure in figures.items():
        path = output / f"{name}.png"
        problem = problem or write_png(figure, path, height=int(figure.layout.height or 600))
        if problem is None:
            written.append(path)
    return problem


if __name__ == "__main__":
    sys.exit(main())
