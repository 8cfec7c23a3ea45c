"""``icl-locate vectors``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl_locate.cli import options
from icl_locate.cli.earlier import check_earlier, with_settings
from icl_locate.cli.loading import load_chosen_model, load_scored_task
from icl_locate.cli.writing import say_written, write_pngs, write_table
from icl_locate.errors import IclLocateError
from icl_locate.records.files import check_output


@dataclass(frozen=True)
class VectorsConfig(
    options.Kept,
    options.Quiet,
    options.Replacing,
    options.Batched,
    options.Shots,
    options.Intervals,
    options.Answers,
):
    """Take a task out of the residual stream as a vector, and put it in where nothing shows it.

    Writes into the output directory: vectors.safetensors, vectors.csv with vectors.recipe.json,
    vectors.html and vectors.png.
    """

    command: ClassVar[str] = "vectors"

    output: Path = Path("runs/vectors")

    kind: Literal["task", "function", "in-context"] = "task"
    """Task vectors (Hendel et al. 2023), a function vector (Todd et al. 2024), or in-context
    vectors (Liu et al. 2023)."""

    other: str | None = None
    """Another task, whose vector is one more control."""

    n_heads: int = 10
    """Heads that write a function vector."""

    shuffled: bool = False
    """Measure heads' effects in prompts whose examples have each other's labels, as published.
    Default: in prompts without examples."""

    n_queries: int = 32
    max_new_tokens: int = 20

    def check(self) -> None:
        """Refuse a number of heads that no vector is made of."""
        if self.n_heads < 1:
            raise IclLocateError(f"--n-heads is {self.n_heads}: expected 1 or more")


def run_vectors(config: VectorsConfig) -> None:
    """Make vectors, put them in, and write what that did."""
    from icl_locate.plots.vectors import strength_curves, transfer_curves
    from icl_locate.report.vectors import peak_of, vector_table, write_vector_report

    result = config.output / "vectors.safetensors"
    check_output(config.output, (result.name, "vectors.csv", "vectors.recipe.json", "vectors.html"))
    check_earlier(config, result)
    task, metric = load_scored_task(config)
    model = load_chosen_model(config, result)
    found = with_settings(_KINDS[config.kind](config, model, task, metric), config)
    peak = peak_of(found, config.confidence)
    written = [found.save(result)]
    written += write_table(found.to_dataframe(), config.output / "vectors.csv", found.provenance)
    path = config.output / "vectors.html"
    written.append(write_vector_report(path, found, peak, confidence=config.confidence))
    draw = strength_curves if config.kind == "in-context" else transfer_curves
    figure = draw(found, confidence=config.confidence)
    problem = write_pngs({"vectors": figure}, config.output, written)
    print(vector_table(found, peak))
    say_written(config, written, problem)


def _shared(config: VectorsConfig, task: Any, metric: Any) -> dict[str, Any]:
    return {
        "n_shots": config.n_shots,
        "n_queries": min(config.n_queries, len(task.test)),
        "seeds": config.seeds,
        "metric": metric,
        "max_new_tokens": config.max_new_tokens,
        "batch_size": config.batch_size,
        "progress": not config.quiet,
    }


def _task_vectors(config: VectorsConfig, model: Any, task: Any, metric: Any) -> Any:
    from icl_locate.vectors import task_vectors

    options_of_it = _shared(config, task, metric)
    return task_vectors(model, task, other=_other(config), **options_of_it)


def _function_vector(config: VectorsConfig, model: Any, task: Any, metric: Any) -> Any:
    from icl_locate.vectors import function_vector

    how: dict[str, Any] = {
        "n_heads": config.n_heads,
        "n_shots": config.n_shots,
        "context": "shuffled" if config.shuffled else "none",
        "progress": not config.quiet,
    }
    other = _other(config)
    against = {} if other is None else {"other task": function_vector(model, other, **how)}
    made = function_vector(model, task, **how)
    return made.score(model, task, against=against, **_shared(config, task, metric))


def _in_context(config: VectorsConfig, model: Any, task: Any, metric: Any) -> Any:
    """Shuffled pairs are no control here: the mean of differences does not know the pairing."""
    from icl_locate.vectors import in_context_vectors

    other = _other(config)
    against = {} if other is None else {"other task": in_context_vectors(model, other)}
    made = in_context_vectors(model, task)
    return made.score(model, task, against=against, **_shared(config, task, metric))


def _other(config: VectorsConfig) -> Any:
    from icl_locate.tasks import load_task

    return None if config.other is None else load_task(config.other)


_KINDS = {"task": _task_vectors, "function": _function_vector, "in-context": _in_context}
