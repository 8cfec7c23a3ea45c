"""``icl-locate gates`` and ``icl-locate lora``."""

from dataclasses import replace

from icl_locate.cli.earlier import check_earlier, with_settings
from icl_locate.cli.first_prompt import print_first_prompt
from icl_locate.cli.start import load_chosen_model
from icl_locate.cli.train_configs import GatesConfig, LoraByLayerConfig
from icl_locate.cli.writing import load_scored_task, say_written, write_pngs, write_table
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output


def run_gates(config: GatesConfig) -> None:
    """Learn gates, and write what was found."""
    from icl_locate import plots
    from icl_locate.gates import GateConfig, train_gates
    from icl_locate.records.checkpoint import saved_path

    how = GateConfig(
        objective=config.objective,
        penalty=config.penalty,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        max_epochs=config.max_epochs,
        patience=config.patience,
        start=config.start,
        seed=config.seed,
    )
    result, checkpoint = config.output / "gates.safetensors", config.output / "checkpoint"
    check_output(config.output, (result.name, "gates.csv", "gates.recipe.json"))
    check_earlier(config, result)
    task, metric = load_scored_task(config)
    if not config.quiet:
        print_first_prompt(
            task, n_shots=config.n_shots, instruction=config.instruction, seed=config.seed
        )
    model = load_chosen_model(config)
    check_earlier(config, result, model=model)
    if config.overwrite:
        saved_path(checkpoint).unlink(missing_ok=True)
    found = train_gates(
        model,
        task,
        how,
        n_shots=config.n_shots,
        instruction=config.instruction,
        n_train=config.n_train,
        n_dev=config.n_dev,
        n_queries=min(config.n_queries, len(task.test)),
        n_curve=config.n_curve,
        metric=metric,
        max_new_tokens=config.max_new_tokens,
        checkpoint=checkpoint,
        progress=not config.quiet,
    )
    found = with_settings(found, config)
    written = [found.save(result)]
    written += write_table(found.to_dataframe(), config.output / "gates.csv", found.provenance)
    figures = {"gate_map": plots.gate_map(found), "pruning_curve": plots.pruning_curve(found)}
    problem = write_pngs(figures, config.output, written)
    print(f"{found.metric}: {found.whole:.3g} whole, {found.pruned:.3g} with heads closed")
    for name, heads in (("needed", found.needed), ("can go", found.can_go)):
        listed = " ".join(f"{layer}.{head}" for layer, head in sorted(heads))
        print(f"{name}: {len(heads)} heads: {listed}")
    for doubt in found.doubts:
        print(f"careful: {doubt}")
    say_written(written, problem)


def run_lora(config: LoraByLayerConfig) -> None:
    """Tune layer by layer, and write what was found."""
    import icl_locate as icl
    from icl_locate import plots
    from icl_locate.lora import PRESETS, lora_by_layer
    from icl_locate.report.page import align_table

    check_output(config.output, ("lora.safetensors", "lora.csv", "lora.recipe.json"))
    task, metric = load_scored_task(config)
    swept = None if config.sweep is None else icl.SweepResult.load(config.sweep)
    if swept is not None and (config.condition or swept.conditions[0]) not in swept.conditions:
        raise IclLocateError(
            f"--condition is {config.condition!r}: the sweep has {', '.join(swept.conditions)}"
        )
    names = ("learning_rate", "max_epochs", "n_train", "n_dev")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    how = replace(PRESETS[config.preset], loss=config.loss, **given)
    left = len(task.train) - how.n_train
    if config.n_dev is None and 0 < left < how.n_dev:
        how = replace(how, n_dev=left)  # a small task: what is left to stop by
    if not config.quiet:
        print_first_prompt(task, n_shots=0, instruction=False)
    found = lora_by_layer(
        config.model,
        task,
        config.output,
        how,
        layers=config.layers or None,
        seeds=config.seeds,
        n_queries=min(config.n_queries, len(task.test)),
        metric=metric,
        max_new_tokens=config.max_new_tokens,
        device=config.device,
        dtype=config.dtype,
        revision=config.revision,
        progress=not config.quiet,
    )
    found = with_settings(found, config)
    written = [found.save(config.output / "lora")]
    written += write_table(found.to_dataframe(), config.output / "lora.csv", found.provenance)
    figure = plots.lora_curves(found, swept, config.condition)
    problem = write_pngs({"lora_layers": figure}, config.output, written)
    low, high = found.interval()
    rows = [
        (str(layer), f"{float(mean):.3g} [{float(low[i]):.3g}, {float(high[i]):.3g}]")
        for i, (layer, mean) in enumerate(zip(found.layers, found.scores.mean(-1), strict=True))
    ]
    print(f"untuned: {found.metric} {found.untuned:.3g}")
    print(align_table(("tuned layer", found.metric), rows))
    if swept is not None:
        rho, less, more = found.rank_correlation(swept, config.condition)
        print(f"rank correlation with the masking curve: {rho:.2f} [{less:.2f}, {more:.2f}]")
    say_written(written, problem)
