"""``icl-locate sweep``. Everything heavy is imported when it runs, so that --help is quick."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl_locate.cli import options
from icl_locate.cli.conditions_file import read_conditions
from icl_locate.cli.earlier import check_earlier
from icl_locate.cli.first_prompt import print_first_prompt
from icl_locate.cli.loading import load_chosen_model, read_costs
from icl_locate.cli.named import import_named
from icl_locate.cli.presets import PRESETS
from icl_locate.cli.start import choose_metric
from icl_locate.cli.writing import WRITTEN, write_result, write_shots
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output


@dataclass(frozen=True)
class SweepConfig(
    options.Kept,
    options.Quiet,
    options.Replacing,
    options.Batched,
    options.Intervals,
    options.Shots,
    options.Task,
):
    """Hide the context from each layer on, score the model, and locate the recognition layer.

    Writes into the output directory: result.safetensors, scores.csv with scores.recipe.json,
    report.html and layer_curves.png (with another scope than "from": layer_importance.png).
    """

    command: ClassVar[str] = "sweep"

    output: Path = Path("runs/sweep")

    batch_size: int = 64

    preset: Literal["sia2024-translation", "sia2024-code"] | None = None
    """Complete settings of a published experiment; what is given beside it goes before."""

    direction: str = "en-fr"
    """Languages of the translation preset: en-fr, en-pt, ..."""

    conditions: tuple[str, ...] = ()
    """What to hide: any of "examples", "instructions+examples", "examples, instructions kept",
    "query", "everything", "all but self". Default: all that the task's prompts allow."""

    conditions_file: Path | None = None
    """Conditions of your own: a TOML file of tables [[condition]] with name, hide (a list of
    segments) and optionally instruction and keep_self."""

    layers: tuple[int, ...] = ()
    """Start layers that run, such as 0 8 16 24; 0 and the end of the model always do. Default: all
    of them."""

    alongside: str | None = None
    """MODULE:NAME, an intervention of your own in MODULE.py, or several joined by |, that acts in
    every cell beside what is hidden there, such as an ablation of heads. Default: none."""

    scope: str = "from"
    """Where a mask that starts at a layer acts: from (it on), only (there), or window:W."""

    compat: Literal["sia2024"] | None = None
    """Hide exactly the columns that the code of Sia et al. hides."""

    shots: tuple[int, ...] = ()
    """Numbers of examples to sweep over, such as 1 3 5 7 9. Default: only --n-shots."""

    n_queries: int | None = None
    """Queries to answer: the first of the task's test set. Default: 64, or all that there are."""

    choice: Literal["random", "balanced", "disjoint"] | None = None
    """How examples are drawn: at random; balanced over the targets; or so, and sharing no word with
    the query. Default: as the task does."""

    instruction: str | None = None
    """Instruction that opens the prompts of a task in a file. Default: none."""

    source_prefix: str | None = None
    """What stands before a source in the prompts of a task in a file. Default: "Q: ", or "Input: "
    for a text with a label."""

    target_prefix: str | None = None
    """What stands before a target in the prompts of a task in a file; spaces at its end become the
    answer's. Default: a line break and "A: ", or "Label: " for a text with a label."""

    separator: str | None = None
    """What stands after an example in the prompts of a task in a file. Default: a blank line."""

    prepend_bos: bool | None = None
    """Whether prompts start with BOS. Default: as the model's tokenizer does."""

    max_new_tokens: int | None = None
    """Length at which an answer ends if no stop string ended it before. Default: 50."""

    token_budget: int | None = None
    """Most tokens that the shared engine holds at once. Default: what free memory allows."""

    engine: Literal["auto", "shared", "hooks"] = "auto"
    """shared: one pass for all start layers and conditions; hooks: one hooked run for each cell;
    auto: shared wherever it is exact."""

    dry_run: bool = False
    """Say what would run and what it would take, and stop; loads no weights."""

    @property
    def allows_code(self) -> bool:
        """A dry run runs no programs, whatever the metric."""
        return self.run_code or self.dry_run

    def check(self) -> None:
        """Refuse a scope or conditions that there are not."""
        from icl_locate.interventions.conditions import get_condition
        from icl_locate.interventions.layers import masked_layers

        masked_layers(self.scope, 0, 1)
        self.acting()
        for condition in self.conditions:
            get_condition(condition)
        if self.conditions_file is not None:
            if self.conditions:
                raise IclLocateError("give either --conditions or --conditions-file, not both")
            read_conditions(self.conditions_file)

    def acting(self) -> Any:
        """What acts alongside, or ``None``."""
        from icl_locate.interventions.base import check_intervention

        if self.alongside is None:
            return None
        found = import_named("--alongside", self.alongside)
        return check_intervention("--alongside", found, IclLocateError)


def run_sweep(config: SweepConfig) -> None:
    """Run a sweep, or one for each number of shots, and write what was found."""
    import icl_locate as icl

    config = _with_preset(config)
    places = _places(config)
    for place in places.values():
        check_output(place, WRITTEN)
    kept = [place / "result.safetensors" for place in places.values()]
    check_earlier(config, *kept)
    task = _load_task(config)
    asked = _asked(config, task)
    if config.dry_run or not config.quiet:
        print_first_prompt(
            task,
            n_shots=next(iter(places)),
            instruction=any(c.instruction for c in asked["conditions"]),
            seed=config.seeds[0],
            choice=config.choice,
        )
    if config.preset or config.dry_run:
        _announce(config, task, asked, list(places))
    if config.dry_run:
        return
    model = load_chosen_model(config, *kept)
    results = {}
    for n_shots, output in places.items():
        results[n_shots] = icl.sweep(
            model,
            task,
            n_shots=n_shots,
            **asked,
            token_budget=config.token_budget,
            batch_size=config.batch_size,
            progress=not config.quiet,
        )
        write_result(results[n_shots], config, output, config.confidence, reference=config.preset)
    if config.shots and config.scope == "from":
        write_shots(results, config)


def _asked(config: SweepConfig, task: Any) -> dict[str, Any]:
    """What decides the numbers of a sweep, beside model, task and shots: arguments of `icl.sweep`.

    Raises:
        IclLocateError: if the task cannot give as much, or its metric runs programs unasked.
    """
    from icl_locate.masking.plan import choose_conditions
    from icl_locate.studies.setting import choose_n_queries

    if config.conditions_file is None:
        least = min(config.shots or (config.n_shots,))
        conditions = choose_conditions(task, least, config.conditions or None)
    else:
        conditions = read_conditions(config.conditions_file)
    n_queries = choose_n_queries(task, config.n_queries)
    return {
        "conditions": conditions,
        "n_queries": n_queries if config.preset is None else min(n_queries, len(task.test)),
        "seeds": config.seeds,
        "metric": choose_metric(config, task),
        "choice": config.choice,
        "prepend_bos": config.prepend_bos,
        "max_new_tokens": 50 if config.max_new_tokens is None else config.max_new_tokens,
        "layers": config.layers or None,
        "scope": config.scope,
        "compat": config.compat,
        "alongside": config.acting(),
        "engine": config.engine,
    }


def _places(config: SweepConfig) -> dict[int, Path]:
    """Where the result of each number of shots goes."""
    if not config.shots:
        return {config.n_shots: config.output}
    return {n_shots: config.output / f"shots_{n_shots}" for n_shots in config.shots}


def _load_task(config: SweepConfig) -> Any:
    import icl_locate as icl

    names = ("instruction", "source_prefix", "target_prefix", "separator")
    given: dict[str, Any] = {
        name: getattr(config, name) for name in names if getattr(config, name) is not None
    }
    task = icl.load_task(config.task, data=config.data)
    if not given:
        return task
    if {"source_prefix", "separator"} & set(given):
        given["stop"] = None  # what ends an answer follows from them
    template = replace(task.template, **given)
    return icl.load_task(config.task, template=template, data=config.data)


def _with_preset(config: SweepConfig) -> SweepConfig:
    """The preset's values, for all options that were left at their defaults."""
    if config.preset is None:
        return config
    defaults = SweepConfig()
    given = {
        name: value.format(direction=config.direction) if name == "task" else value
        for name, value in PRESETS[config.preset].items()
        if getattr(config, name) == getattr(defaults, name)
    }
    return replace(config, **given)


def _announce(config: SweepConfig, task: Any, asked: dict[str, Any], shots: list[int]) -> None:
    """Print what will run, and what it will take."""
    import torch

    from icl_locate.interventions.conditions import get_condition
    from icl_locate.masking.estimate import estimate_sweep, measure_speed
    from icl_locate.metrics import for_task, generates, readout_of
    from icl_locate.models.loading import resolve_device

    costs, tokenizer = read_costs(config)
    conditions = [get_condition(condition) for condition in asked["conditions"]]
    n_queries, metric, length = asked["n_queries"], asked["metric"], asked["max_new_tokens"]
    print(f"model       {config.model}: {costs.n_layers} layers, d={costs.d_model}")
    print(f"task        {task.name}: {n_queries} queries, {len(task.train)} examples to draw from")
    print(f"conditions  {'; '.join(c.name for c in conditions)}; {config.scope} each layer")
    print(f"shots       {', '.join(map(str, shots))}; seeds {', '.join(map(str, config.seeds))}")
    print(f"metric      {metric.name}, at most {length} new tokens")
    if readout_of(metric).calibrates:
        n_texts = len(readout_of(for_task(metric, task, n_queries)).content_free)
        print(f"            with {n_texts} content-free inputs: {1 + n_texts} times what follows")
    print(f"output      {config.output}")
    speed = measure_speed(resolve_device(config.device), getattr(torch, config.dtype))
    for n_shots in shots:
        estimate = estimate_sweep(
            tokenizer,
            costs,
            task,
            conditions,
            n_shots=n_shots,
            n_queries=n_queries,
            n_seeds=len(config.seeds),
            max_new_tokens=length,
            generates=generates(metric),
            layers=asked["layers"],
            scope=config.scope,
            engine=config.engine if asked["alongside"] is None else "hooks",
            choice=config.choice or task.choice,
        )
        print(f"{n_shots} shots: {estimate.describe(speed)}")
