"""``icl-locate sweep``. Everything heavy is imported when it runs, so that --help is quick."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from icl_locate.cli.announce import announce
from icl_locate.cli.conditions_file import read_conditions
from icl_locate.cli.configs import SweepConfig
from icl_locate.cli.earlier import check_earlier
from icl_locate.cli.first_prompt import print_first_prompt
from icl_locate.cli.start import load_chosen_model
from icl_locate.cli.writing import WRITTEN, check_code, write_result, write_shots
from icl_locate.records.files import check_output


def run_sweep(config: SweepConfig) -> None:
    """Run a sweep, or one for each number of shots, and write what was found."""
    import icl_locate as icl
    from icl_locate.studies.location import check_confidence
    from icl_locate.studies.setting import check_shots, choose_n_queries

    config = _with_preset(config)
    check_confidence(config.confidence)
    places = _places(config)
    for place in places.values():
        check_output(place, WRITTEN)
    results_of = [place / "result.safetensors" for place in places.values()]
    check_earlier(config, *results_of)
    task = _load_task(config)
    metric = config.metric or task.metric
    check_code(metric, allowed=config.run_code or config.dry_run)
    shots = check_shots(config.shots or (config.n_shots,))
    conditions = _conditions(config, task, min(shots))
    n_queries = choose_n_queries(task, config.n_queries)
    if config.preset is not None:
        n_queries = min(n_queries, len(task.test))
    max_new_tokens = 50 if config.max_new_tokens is None else config.max_new_tokens
    if config.dry_run or not config.quiet:
        print_first_prompt(
            task,
            n_shots=shots[0],
            instruction=any(c.instruction for c in conditions),
            seed=config.seeds[0] if config.seeds else 0,
            choice=config.choice,
        )
    if config.preset or config.dry_run:
        announce(config, task, conditions, n_queries, shots, max_new_tokens)
    if config.dry_run:
        return
    model = load_chosen_model(config)
    check_earlier(config, *results_of, model=model)
    results = {}
    for n_shots, output in places.items():
        results[n_shots] = icl.sweep(
            model,
            task,
            conditions=conditions,
            n_shots=n_shots,
            n_queries=n_queries,
            seeds=config.seeds,
            metric=metric,
            choice=config.choice,
            prepend_bos=config.prepend_bos,
            max_new_tokens=max_new_tokens,
            scope=config.scope,
            compat=config.compat,
            batch_size=config.batch_size,
            token_budget=config.token_budget,
            engine=config.engine,
            progress=not config.quiet,
        )
        write_result(results[n_shots], config, output, config.confidence, reference=config.preset)
    if config.shots and config.scope == "from":
        write_shots(results, config.output)


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
    from icl_locate.cli.presets import PRESETS

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
    from icl_locate.masking.plan import choose_conditions

    if config.conditions_file is None:
        return choose_conditions(task, n_shots, config.conditions or None)
    return read_conditions(config.conditions_file)
