"""What an experiment is asked for: task, shots, queries, seeds and metric, checked in one place."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from icl_locate._types import Segment
from icl_locate.checks.arguments import LAST_SEED, check_items, check_seeds
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.engine.choice import Engine
from icl_locate.engine.grid import cells_of
from icl_locate.engine.hooked import Cell
from icl_locate.engine.readout import Run, check_readable
from icl_locate.errors import MaskError, PromptError, TaskError
from icl_locate.interventions.base import Intervention, check_intervention
from icl_locate.metrics import (
    Metric,
    TextScore,
    for_task,
    get_metric,
    is_known,
    is_mean,
    judged,
    readout_of,
)
from icl_locate.metrics.traits import runs_programs
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice, Example, choose_examples
from icl_locate.prompts.tokens import Prompts
from icl_locate.studies.content_free import build_forms
from icl_locate.studies.place import note_recipe
from icl_locate.studies.recipe import describe_model, prompts_digest
from icl_locate.studies.schedule import answer
from icl_locate.studies.units import Request
from icl_locate.tasks.loading import load_task
from icl_locate.tasks.task import Task

DEFAULT_QUERIES = 64


@dataclass(frozen=True)
class Setting:
    """What an experiment runs on: a task's queries, how they are prompted, and how answers count.

    Public functions take these as keywords and make a Setting of them before anything runs: here
    they are checked, here prompts are built, and here a result's recipe comes from.

    Attributes:
        task: what is asked.
        metric: what an answer is worth; bound to the task's queries where it asks for that.
        n_queries: the first so many queries of ``task.test``, the same for every seed.
        seeds: each draws other examples for the same queries; of given prompts the first alone,
            since it draws nothing.
        n_shots: examples in a prompt.
        choice: how they are drawn.
        prepend_bos: whether prompts start with BOS; ``None`` follows the model's tokenizer.
        max_new_tokens: length at which a generated answer ends.
    """

    task: Task
    metric: Metric
    n_queries: int
    seeds: tuple[int, ...] = (0,)
    n_shots: int = 5
    choice: Choice | str = "random"
    prepend_bos: bool | None = None
    max_new_tokens: int = 50

    @classmethod
    @checked(TaskError, task=anything, metric=anything)
    def of(
        cls,
        task: Task | str | Path,
        *,
        metric: str | Metric | TextScore | None = None,
        n_queries: int | None = None,
        seeds: int | Iterable[int] = 0,
        n_shots: int = 5,
        choice: Choice | str | None = None,
        prepend_bos: bool | None = None,
        max_new_tokens: int = 50,
        most_queries: int = DEFAULT_QUERIES,
    ) -> "Setting":
        """A setting from what a user gave; nothing heavy is loaded.

        Args:
            task: a task, or what `load_task` takes.
            metric: a name, a `Metric` or a function of (answer, target); ``None``: the task's.
            n_queries: ``None`` means ``most_queries``, or all that there are.
            choice: ``None`` means the task's way.

        Raises:
            TaskError: too few queries, no seeds, an unknown metric, or one that runs programs
                without being asked for by name.
        """
        task = load_task(task)
        drawn = check_seeds(seeds, error=TaskError)
        n_queries = choose_n_queries(task, n_queries, most_queries)
        _ = task.queries(n_queries)  # refuses too few
        return cls(
            task=task,
            metric=_choose_metric(task, metric, n_queries),
            n_queries=n_queries,
            seeds=drawn if task.prompts is None else drawn[:1],
            n_shots=task.shots_of(n_shots),
            choice=choice or task.choice,
            prepend_bos=prepend_bos,
            max_new_tokens=max_new_tokens,
        )

    @property
    def queries(self) -> tuple[Example, ...]:
        """The queries that are answered."""
        return self.task.queries(self.n_queries)

    @property
    def unasked(self) -> tuple[Example, ...]:
        """The task's examples that are no queries: to learn from, or to take means over.

        A file without splits has every record in both.
        """
        asked = {query.source for query in self.queries}
        return tuple(example for example in self.task.train if example.source not in asked)

    @property
    def custom_metric(self) -> Metric | None:
        """The metric itself where its name is not enough to have it again."""
        return None if is_known(self.metric.name) else self.metric

    @checked(PromptError, seed=whole(-LAST_SEED, LAST_SEED))
    def prompts(
        self,
        model: Model,
        seed: int,
        *,
        instruction: bool | None = None,
        queries: Sequence[Example] | None = None,
        shots: Sequence[Sequence[Example]] | None = None,
    ) -> Prompts:
        """The prompts of a seed.

        Args:
            instruction: whether they hold the task's instruction; ``None``: if it has one.
            queries: others than the setting's own, to learn from or to measure means on.
            shots: what each query is shown, where that is not drawn.

        Raises:
            PromptError: as `Task.build` does; if the answers to the setting's own queries find
                no room in the model's context, or none could equal its target.
            TaskError: if the metric reads first tokens that cannot tell answers apart.
        """
        if instruction is None:
            instruction = self.task.template.instruction is not None
        build = partial(
            self.task.build,
            model,
            n_queries=self.n_queries,
            n_shots=self.n_shots,
            instruction=instruction,
            seed=seed,
            choice=str(self.choice),
            prepend_bos=self.prepend_bos,
        )
        texts = readout_of(self.metric).content_free
        if texts:
            asked = self.queries if queries is None else queries
            shown = self._draw(asked, seed) if shots is None else shots
            prompts = build_forms(build, texts, asked, shown)
        else:
            prompts = build(queries=queries, shots=shots)
        if queries is None:
            check_readable(Run(model, prompts, self.max_new_tokens), self.metric)
        return prompts

    def _draw(self, queries: Sequence[Example], seed: int) -> list[list[Example]]:
        """What each query is shown, where that is drawn."""
        bank, n_shots, choice = self.task.train, self.n_shots, str(self.choice)
        return [choose_examples(q, bank, n_shots, seed=seed, choice=choice) for q in queries]

    @checked(TaskError, runs=anything)
    def run(
        self,
        model: Model,
        prompts: Prompts,
        runs: Iterable[Intervention],
        *,
        engine: Engine | str = "auto",
        batch_size: int = 64,
        token_budget: int | None = None,
        on_progress: Callable[[int], object] = lambda _: None,
    ) -> list[Cell]:
        """Answer prompts under each of some interventions.

        Args:
            runs: masks, or any other interventions and compositions of them.
            engine, batch_size, token_budget: as in `icl_locate.sweep`.
            on_progress: told how many more of the runs are done.

        Returns:
            For each of them ``cell.statistics``, each item's of the metric, and ``cell.texts``, the
            answers; empty where the metric is a log-probability.

        Raises:
            MaskError: if one is no intervention, or fits neither the model nor the prompts.
            ModelError: if the shared engine was asked for, and cannot run these.
        """
        listed = check_items("runs", runs, "a list of interventions", error=MaskError)
        asked = [check_intervention(f"runs[{i}]", run) for i, run in enumerate(listed)]
        (cells,) = self.run_all(
            model, [Request(prompts, asked)], engine=engine, batch_size=batch_size,
            token_budget=token_budget, on_progress=on_progress,
        )  # fmt: skip
        return cells

    def run_all(self, model: Model, requests: Sequence[Request], **how: Any) -> list[list[Cell]]:
        """`run` for several sets of prompts: those of all seeds, say, which run side by side.

        Args:
            how: options of `run`, and ``on_answers`` of `studies.schedule.answer`.

        Returns:
            For each of the requests a cell for each of its runs.
        """
        readout, n_new = readout_of(self.metric), self.max_new_tokens
        answers = answer(model, requests, readout, max_new_tokens=n_new, **how)
        return [
            cells_of(self.metric, some, one.prompts.targets)
            for some, one in zip(answers, requests, strict=True)
        ]

    @checked(TaskError)
    def recipe(self, model: Model, prompts: Iterable[Prompts]) -> dict[str, Any]:
        """Where the numbers come from, complete before anything runs.

        Args:
            prompts: all that will run.
        """
        shown = list(prompts)
        bos = any(bool((some.segments == Segment.BOS).any()) for some in shown)
        own = {"bos": bos, "prompts_sha256": prompts_digest(shown)}
        return note_recipe({**describe_model(model), **self.asked(), **own})

    def asked(self) -> dict[str, Any]:
        """The recipe without the model and its prompts."""
        return {
            "task": self.task.name,
            "template": asdict(self.task.template),
            "bare_template": asdict(self.task.template_for(instruction=False)),
            "n_shots": self.n_shots,
            "n_queries": self.n_queries,
            "seeds": list(self.seeds),
            "choice": str(self.choice),
            "max_new_tokens": self.max_new_tokens,
            "signature": self.metric.signature,
            "metric_is_mean": is_mean(self.metric),
            "gives_text": readout_of(self.metric).gives_text,
        }

    def first_shots(self) -> list[list[str]]:
        """What the first query is shown under the first seed, so that a reader sees one prompt."""
        if self.task.prompts is not None or not self.n_shots:
            return []
        (shown,) = self._draw(self.queries[:1], self.seeds[0])
        return [[example.source, example.target] for example in shown]

    def outcome(self) -> dict[str, Any]:
        """What is known of the metric only after a run: how programs were judged."""
        return judged(self.metric)


def choose_n_queries(task: Task, n_queries: int | None, most: int = DEFAULT_QUERIES) -> int:
    """How many of a task's queries are answered: as many as asked for, else ``most`` or all."""
    return min(most, len(task.test)) if n_queries is None else n_queries


def _choose_metric(task: Task, metric: str | Metric | TextScore | None, n_queries: int) -> Metric:
    chosen = get_metric(task.metric if metric is None else metric)
    if metric is None and runs_programs(chosen):
        raise TaskError(
            f"the task {task.name!r} is scored by running the programs that the model writes: say "
            f"metric={chosen.name!r} if you want that, or choose another metric"
        )
    if readout_of(chosen).calibrates and task.prompts is not None:
        raise TaskError(
            f"the metric {chosen.name!r} runs prompts with other sources in them, but the task "
            f"{task.name!r} has prompts of its own, and no layout to make others: use "
            "metric='label_accuracy', or a task with examples (icl_locate.load_task)"
        )
    _ = chosen.signature  # a tokeniser that is not to be had is refused before anything runs
    bound = for_task(chosen, task, n_queries)
    _ = judged(bound)  # what no result can hold is refused before anything runs, too
    return bound
