"""Prompts of a classification, with what each example and query is labelled."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.reprs import short_repr
from icl_locate.circuit.tokens import TokenTypes, answer_prompts, token_types
from icl_locate.engine.labels import label_tokens
from icl_locate.errors import TaskError
from icl_locate.metrics import Metric, Readout, Statistics, TargetLogProb
from icl_locate.metrics.base import mean_of, mean_statistics
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice, Example, choose_examples
from icl_locate.prompts.tokens import Prompts
from icl_locate.studies.setting import Setting
from icl_locate.tasks.loading import load_task
from icl_locate.tasks.task import Task

Compat = Literal["cho2025"]
"""Whose code is followed where it differs from what is documented."""
DEFAULT_SHOTS = 4
"""As many as Cho et al. use."""
MOST_QUERIES = 512


@dataclass(frozen=True)
class Measure:
    """A number for each prompt that is measured inside the model, not scored from its answer.

    Attributes:
        name: of the measure, such as "kernel_alignment".
        said: what it depends on, for its signature.
    """

    name: str
    said: str = ""
    n_columns: ClassVar[int] = 2
    is_mean: ClassVar[bool] = True

    @property
    def signature(self) -> str:
        """The recipe."""
        return f"{self.name}|{self.said}|mean:prompts"

    @property
    def readout(self) -> Readout:
        """Nothing is generated."""
        return TargetLogProb()

    def statistics(self, answers: Sequence[float], targets: Sequence[str]) -> Statistics:  # noqa: ARG002
        """Columns: the number, and 1 to count it."""
        return mean_statistics(answers)

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The mean."""
        return mean_of(totals)


@short_repr("prompts", "shown", "asked")
@dataclass(frozen=True)
class Inputs:
    """The prompts of one seed, and where the circuit's tokens stand in them.

    Attributes:
        types: the positions of each type of token.
        shown: the class of each example's label.
        asked: the class of the query's label.
    """

    prompts: Prompts
    types: TokenTypes
    shown: Int[Tensor, "batch shot"]
    asked: Int[Tensor, "batch"]


@dataclass(frozen=True)
class CircuitSetting:
    """What a study of the circuit runs on.

    Attributes:
        setting: task, queries, seeds and shots.
        labels: the classes, in the order in which the task's examples have them.
        instruction: whether prompts hold the task's instruction.
        classes: whether the measure asks for classes: labels that several examples share.
    """

    setting: Setting
    labels: tuple[str, ...]
    instruction: bool
    classes: bool = True

    @classmethod
    def of(
        cls,
        task: Task | str | Path,
        metric: str | Metric,
        *,
        n_shots: int = DEFAULT_SHOTS,
        n_queries: int | None = None,
        seeds: int | Iterable[int] = 0,
        choice: Choice | str | None = None,
        prepend_bos: bool | None = None,
        instruction: bool = False,
        classes: bool = True,
        spares: bool = False,
    ) -> "CircuitSetting":
        """A setting from what a user gave; nothing heavy is loaded.

        Args:
            n_queries: ``None`` means 512, or all that there are.
            choice: ``None`` means the task's way, or "balanced" where that is "random": each class
                has to stand among the examples.
            classes: as the field.
            spares: whether some examples are to be left that no query is, unless ``n_queries`` says
                otherwise.

        Raises:
            TaskError: prompts that are given; no shots; where classes are asked for: fewer than
                two, a query of a class that no example has, or too few shots for all classes.
        """
        loaded = load_task(task)
        if loaded.prompts is not None:
            raise TaskError(
                f"the task {loaded.name!r} has prompts of its own: which class their labels are of "
                "is not known; use a task with examples (icl_locate.load_task)"
            )
        if n_queries is None and spares:
            n_queries = spared(loaded, min(MOST_QUERIES, len(loaded.test)))
        if choice is None:
            choice = "balanced" if loaded.choice == "random" else loaded.choice
        setting = Setting.of(
            loaded, metric=metric, n_queries=n_queries, seeds=seeds, n_shots=n_shots, choice=choice,
            prepend_bos=prepend_bos, max_new_tokens=1, most_queries=MOST_QUERIES,
        )  # fmt: skip
        labels = tuple(dict.fromkeys(example.target for example in loaded.train))
        if n_shots < 1:
            raise TaskError("n_shots is 0: the circuit runs over examples, expected 1 or more")
        if classes:
            _check_classes(setting, labels)
        return cls(setting, labels, instruction, classes)

    def inputs(
        self,
        model: Model,
        seed: int,
        shown: Sequence[tuple[Example, Sequence[Example]]] | None = None,
    ) -> Inputs:
        """The prompts of a seed.

        Args:
            shown: other queries than the setting's own, and the examples that each is shown.

        Raises:
            TaskError: a query whose class none of its examples is of.
            PromptError: a template without forerunner token; prompts that do not fit the model.
        """
        setting, known = self.setting, self.labels.index
        own = shown is None
        if shown is None:
            shown = [(query, self.examples(query, seed)) for query in setting.queries]
        if self.classes:
            _check_shown(setting.n_shots, shown)
        queries, drawn = [query for query, _ in shown], [examples for _, examples in shown]
        prompts = setting.prompts(
            model, seed, instruction=self.instruction, queries=None if own else queries, shots=drawn
        )
        return Inputs(
            prompts,
            token_types(prompts),
            torch.tensor([[known(example.target) for example in shots] for shots in drawn]),
            torch.tensor([self._class(query) for query in queries]),
        )

    def examples(self, query: Example, seed: int, n_shots: int | None = None) -> list[Example]:
        """What a query is shown: the draw of a seed, of as many shots as the setting has."""
        setting = self.setting
        number = setting.n_shots if n_shots is None else n_shots
        return choose_examples(
            query, setting.task.train, number, seed=seed, choice=str(setting.choice)
        )

    def answers(self, model: Model, prompts: Prompts) -> list[list[list[int]]]:
        """``tokens[label][prompt]``: each label's tokens as they continue each prompt.

        Raises:
            TaskError: if two labels begin with the same token: the first tokens, which attention is
                measured at, would not tell their classes apart.
        """
        tokens = label_tokens(model, prompts, self.labels)
        for prompt in range(len(prompts)):
            seen: dict[int, str] = {}
            for label, rows in zip(self.labels, tokens, strict=True):
                other = seen.setdefault(rows[prompt][0], label)
                if other != label:
                    raise TaskError(
                        f"the labels {other!r} and {label!r} begin with the same token, at which "
                        "attention is measured, so that it could not tell their classes apart: "
                        "rename them (Task's examples' targets), such as A and B"
                    )
        return tokens

    def answered(
        self, model: Model, inputs: Inputs, labels: Int[Tensor, "batch"]
    ) -> tuple[Prompts, TokenTypes]:
        """The prompts with a label of these classes behind each query, and its token types."""
        tokens = self.answers(model, inputs.prompts)
        chosen = [tokens[label][prompt] for prompt, label in enumerate(labels.tolist())]
        prompts = answer_prompts(inputs.prompts, chosen)
        return prompts, token_types(prompts)

    def wrong(self, asked: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
        """A wrong class for each query: the next one, as Cho et al. take it."""
        return (asked + 1) % len(self.labels)

    def recipe(self, model: Model, prompts: Iterable[Prompts], **said: Any) -> dict[str, Any]:
        """Where the numbers come from."""
        return {
            **self.setting.recipe(model, prompts),
            "labels": list(self.labels),
            "instruction": self.instruction,
            **said,
        }

    def _class(self, query: Example) -> int:
        """The class of a query's label; -1 where no example has it, and nobody asks."""
        return self.labels.index(query.target) if query.target in self.labels else -1


def spared(task: Task, n_queries: int) -> int:
    """So many queries, or half of a file without splits, where they would be all of its examples.

    >>> from icl_locate.prompts.template import PromptTemplate
    >>> mine = tuple(Example(f"text {i}", "A") for i in range(6))
    >>> task = Task("mine", mine, mine, PromptTemplate())
    >>> spared(task, 6), spared(task, 4)
    (3, 4)
    """
    asked = {query.source for query in task.test[:n_queries]}
    left = any(example.source not in asked for example in task.train)
    return n_queries if left else max(1, n_queries // 2)


def _check_shown(n_shots: int, shown: Sequence[tuple[Example, Sequence[Example]]]) -> None:
    """Refuse prompts whose right label stands nowhere in them: there is nothing to retrieve."""
    for query, examples in shown:
        if query.target not in {example.target for example in examples}:
            raise TaskError(
                f"none of the {n_shots} examples that the query {query.source!r} is shown "
                f"has its label {query.target!r}, so that there is nothing to retrieve: draw them "
                "with choice='balanced', or give more shots"
            )


def _check_classes(setting: Setting, labels: Sequence[str]) -> None:
    name = setting.task.name
    if len(labels) < 2:
        raise TaskError(
            f"the examples of the task {name!r} have the labels {list(labels)}: expected two "
            "classes or more"
        )
    unseen = next((query for query in setting.queries if query.target not in labels), None)
    if unseen is not None:
        raise TaskError(
            f"the query {unseen.source!r} has the label {unseen.target!r}, which no example of the "
            f"task {name!r} has: expected one of its {len(labels)} labels, such as "
            f"{labels[0]!r}; give examples of each class, leave such queries out, or use a task of "
            "classes"
        )
    if setting.n_shots < len(labels):
        raise TaskError(
            f"n_shots is {setting.n_shots}, but the task {name!r} has {len(labels)} classes, each "
            "of which an example has to show: give as many shots or more"
        )
