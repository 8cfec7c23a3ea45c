"""``icl-locate induction``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl_locate.cli import options
from icl_locate.cli.earlier import check_earlier, with_settings
from icl_locate.cli.first_prompt import print_first_prompt
from icl_locate.cli.loading import load_chosen_model, load_scored_task
from icl_locate.cli.start import say
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.records.files import check_output

_WRITTEN = (
    "ablation.safetensors", "ablation.csv", "ablation.recipe.json", "reference.safetensors",
    "heads.safetensors", "heads.csv", "heads.recipe.json", "effects.safetensors", "induction.html",
)  # fmt: skip


@dataclass(frozen=True)
class InductionConfig(
    options.Kept,
    options.Quiet,
    options.Replacing,
    options.Batched,
    options.Intervals,
    options.Answers,
):
    """Score every head, take the induction heads out, and compare with random heads.

    Writes into the output directory: heads.csv with heads.recipe.json, heads.safetensors,
    head_map.png, ablation.safetensors, ablation.csv with ablation.recipe.json, ablation_bars.png,
    fraction_curves.png, induction.html, effects.safetensors where single heads were ablated, and
    reference.safetensors where means were measured.
    """

    command: ClassVar[str] = "induction"

    output: Path = Path("runs/induction")

    task: options.TaskName = "pseudo-translation"
    """repetition, recursion, centre-embedding, f_a_f_p/2, f_a_f_p/4, v_v_b_i/2, v_v_b_i/4, or any
    task that `icl-locate sweep` takes."""

    lengths: tuple[int, ...] = ()
    """Lengths of the random sequences on which heads are scored. Default: 50 37 29, or three
    shorter ones where the model's context or vocabulary is small."""

    tokens: Literal["vocabulary", "task"] = "vocabulary"
    """What these sequences are drawn from: the vocabulary's tokens that ordinary texts hold, or the
    task's own tokens."""

    fractions: tuple[float, ...] = (0.01, 0.03)
    """Shares of all heads to take out, those of the highest induction scores."""

    interventions: tuple[Literal["zero", "mean_z", "mean_input", "resample", "knockout"], ...] = (
        "mean_z",
        "knockout",
    )
    """What is done to them."""

    controls: int = 3
    """Random selections of as many other heads in each layer."""

    shots: tuple[int, ...] = (5,)
    """Examples in each prompt; several numbers are compared."""

    n_effects: int = 32
    """Heads whose ablation alone is measured: those of the highest induction scores; 0: none."""

    reference: Path | None = None
    """A reference.safetensors of an earlier run, whose means are used again."""

    match: Literal["token", "word"] | None = None
    """What counts as an earlier occurrence when edges are knocked out. Default: word for the
    pattern tasks of words, token for all others."""


def run_induction(config: InductionConfig) -> None:
    """Score all heads, take the best out, and write what was found."""
    from icl_locate import induction
    from icl_locate.induction.sequences import Sequences, check_lengths

    if config.lengths:
        check_lengths(config.lengths)
    check_output(config.output, _WRITTEN)
    kept = config.output / "ablation.safetensors"
    check_earlier(config, kept)
    task, metric = load_scored_task(config)
    reference = None
    if config.reference is not None:
        reference = induction.HeadReference.load(config.reference)
    if not config.quiet:
        print_first_prompt(task, n_shots=config.shots[0], instruction=True, seed=config.seeds[0])
    model = load_chosen_model(config, kept)
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
    """The prompts on which single heads are ablated: the study's, with most shots."""
    from icl_locate.studies.setting import Setting

    n_queries = min(config.n_queries, len(task.test))
    setting = Setting.of(task, n_queries=n_queries, n_shots=max(config.shots), metric="log_prob")
    return setting.prompts(model, config.seeds[0])


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
    if result.is_calibrated:
        raw = result.uncalibrated()
        print(f"\n{comparison_table(raw.compare(confidence=config.confidence), raw.metric)}")
    say_written(config, written, problem)
