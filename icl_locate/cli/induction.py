"""``icl-locate induction``."""

from pathlib import Path
from typing import Any

from icl_locate.cli.configs import InductionConfig
from icl_locate.cli.earlier import check_earlier, with_settings
from icl_locate.cli.first_prompt import print_first_prompt
from icl_locate.cli.start import load_chosen_model, say
from icl_locate.cli.writing import load_scored_task, say_written, write_pngs, write_table
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output

_WRITTEN = (
    "ablation.safetensors", "ablation.csv", "ablation.recipe.json", "reference.safetensors",
    "heads.safetensors", "heads.csv", "heads.recipe.json", "effects.safetensors", "induction.html",
)  # fmt: skip


def run_induction(config: InductionConfig) -> None:
    """Score all heads, take the best out, and write what was found."""
    from icl_locate import induction
    from icl_locate.induction.sequences import Sequences, check_lengths
    from icl_locate.studies.location import check_confidence

    check_confidence(config.confidence)
    if config.lengths:
        check_lengths(config.lengths)
    check_output(config.output, _WRITTEN)
    check_earlier(config, config.output / "ablation.safetensors")
    task, metric = load_scored_task(config)
    if config.n_effects < 0:
        raise IclLocateError(f"--n-effects is {config.n_effects}: expected 0 or more")
    reference = None
    if config.reference is not None:
        reference = induction.HeadReference.load(config.reference)
    if not config.quiet:
        print_first_prompt(task, n_shots=config.shots[0], instruction=True, seed=config.seeds[0])
    model = load_chosen_model(config)
    check_earlier(config, config.output / "ablation.safetensors", model=model)
    own = None if config.tokens == "vocabulary" else induction.task_tokens(model, task)
    fitted = Sequences.fit(model, config.lengths or None, tokens=own, speech="command")
    say(config, f"scoring {model.cfg.n_layers * model.cfg.n_heads} heads on random tokens")
    scores = induction.head_scores(
        model, lengths=fitted.lengths, n_copies=fitted.n_copies, tokens=own
    )
    result = induction.ablation_study(
        model,
        task,
        scores,
        config.controls,
        config.fractions,
        config.shots,
        config.seeds,
        interventions=config.interventions,
        n_queries=min(config.n_queries, len(task.test)),
        metric=metric,
        reference=reference,
        match=config.match,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        progress=not config.quiet,
    )
    result = with_settings(result, config)
    written = _write_study(config, result)
    effects = None
    n_heads = scores.induction.numel()
    if config.n_effects:
        best = induction.select_heads(scores.induction, min(1.0, config.n_effects / n_heads))
        effects = induction.head_effects(
            model, _prompts(config, model, task), best, batch_size=config.batch_size,
            progress=not config.quiet,
        )  # fmt: skip
    _write_rest(config, scores, result, effects, written)


def _prompts(config: InductionConfig, model: Any, task: Any) -> Any:
    import icl_locate as icl

    return icl.build_prompts(
        model,
        task.test[: min(config.n_queries, len(task.test))],
        examples=task.train,
        n_shots=max(config.shots),
        template=task.template,
        seed=config.seeds[0],
        choice=task.choice,
    )


def _write_study(config: InductionConfig, result: Any) -> list[Path]:
    """What took longest, before anything else is run."""
    written: list[Path] = [result.save(config.output / "ablation")]
    if result.reference is not None:
        written.append(result.reference.save(config.output / "reference"))
    table = config.output / "ablation.csv"
    return written + write_table(result.to_dataframe(), table, result.provenance)


def _write_rest(
    config: InductionConfig, scores: Any, result: Any, effects: Any, written: list[Path]
) -> None:
    from icl_locate import plots
    from icl_locate.report.heads import (
        comparison_table,
        found_heads,
        head_table,
        scored_on,
        write_head_report,
    )

    output = config.output
    comparisons = result.compare(confidence=config.confidence)
    chosen = max((arm.heads for arm in result.arms if arm.kind == "induction"), key=len)
    table = scores.to_dataframe(effects)
    recipe = {"scores": dict(scores.provenance)}
    written.append(scores.save(output / "heads"))
    if effects is not None:
        recipe["effects"] = dict(effects.provenance)
        written.append(effects.save(output / "effects"))
    written += write_table(table, output / "heads.csv", recipe)
    written.append(
        write_head_report(output / "induction.html", scores, effects, result, comparisons)
    )
    figures = {
        "head_map": plots.head_map(scores, marked=chosen),
        "ablation_bars": plots.ablation_bars(result, comparisons),
        "fraction_curves": plots.fraction_curves(result, comparisons),
    }
    problem = write_pngs(figures, output, written)
    print(head_table(table.head(10)))
    print(f"\n{scored_on(scores)}\n{found_heads(scores)}\n")
    print(comparison_table(comparisons, result.metric))
    say_written(written, problem)
