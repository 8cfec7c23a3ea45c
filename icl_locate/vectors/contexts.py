"""What vectors are made of: demonstrations and dummy queries, none of which is ever asked."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_items, refuse
from icl_locate.engine.states import states
from icl_locate.errors import TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Example, choose_examples
from icl_locate.prompts.tokens import Prompts
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task
from icl_locate.vectors.controls import shuffle_labels


@dataclass(frozen=True)
class Context:
    """The demonstrations of one seed, and the dummy queries that stand behind them.

    Attributes:
        shots: the demonstrations, the same for each dummy.
        dummies: queries whose prompts are read, and whose answers are not.
    """

    shots: tuple[Example, ...]
    dummies: tuple[Example, ...]

    def prompts(self, setting: Setting, model: Model, seed: int) -> Prompts:
        """The dummy queries' prompts, without an instruction."""
        shots = [self.shots] * len(self.dummies)
        return setting.prompts(model, seed, instruction=False, queries=self.dummies, shots=shots)

    def shuffled(self, seed: int) -> "Context":
        """The same with labels dealt out anew.

        Raises:
            TaskError: if all of them are the same.
        """
        return replace(self, shots=tuple(shuffle_labels(self.shots, f"{seed}/context")))

    def describe(self) -> dict[str, list[str]]:
        """What a recipe says of it."""
        return {
            "shots": [f"{shot.source} -> {shot.target}" for shot in self.shots],
            "dummies": [dummy.source for dummy in self.dummies],
        }


def draw_context(setting: Setting, seed: int, n_dummies: int, asked: Sequence[Example]) -> Context:
    """Demonstrations and dummy queries from the task's bank, none of which is asked.

    Args:
        asked: the queries that vectors are tried on: a vector made of one knew its answer.

    Raises:
        TaskError: if the bank holds too few others.
    """
    task, sources = setting.task, {example.source for example in asked}
    bank = list({e.source: e for e in task.train if e.source not in sources}.values())
    if len(bank) < n_dummies + setting.n_shots:
        raise TaskError(
            f"the task {task.name!r} has {len(bank)} examples that are not asked: expected "
            f"{setting.n_shots} demonstrations and {n_dummies} dummy queries; give more examples, "
            "or ask for fewer shots, dummies or queries"
        )
    dummies = random.Random(f"dummies {seed}").sample(bank, n_dummies)
    rest = [example for example in bank if example not in dummies]
    choice = str(setting.choice)
    shots = choose_examples(dummies[0], rest, setting.n_shots, seed=seed, choice=choice)
    return Context(tuple(shots), tuple(dummies))


@dataclass(frozen=True)
class Source:
    """What a task's vectors are made of, seed by seed.

    Attributes:
        setting: the task, and how its prompts are built.
        contexts: one for each seed.
    """

    setting: Setting
    contexts: tuple[Context, ...]

    @classmethod
    def of(cls, setting: Setting, asked: Sequence[Example], n_dummies: int) -> "Source":
        """Of other examples than are asked.

        Raises:
            TaskError: if there are too few.
        """
        seeds = setting.seeds
        return cls(setting, tuple(draw_context(setting, seed, n_dummies, asked) for seed in seeds))

    def prompts(self, model: Model) -> list[Prompts]:
        """The dummies' prompts, seed by seed."""
        pairs = zip(self.contexts, self.setting.seeds, strict=True)
        return [context.prompts(self.setting, model, seed) for context, seed in pairs]

    def shuffled(self) -> "Source":
        """The same with labels dealt out anew.

        Raises:
            TaskError: if all labels of a context are the same.
        """
        pairs = zip(self.contexts, self.setting.seeds, strict=True)
        return replace(self, contexts=tuple(context.shuffled(seed) for context, seed in pairs))

    def vectors(self, model: Model, batch_size: int = 32) -> Float[Tensor, "seed layer d_model"]:
        """The states after every block at the last token, mean over dummies: one pass a seed."""
        means = [
            states(model, prompts, batch_size=batch_size)[:, :, 0].mean(dim=1)
            for prompts in self.prompts(model)
        ]
        return torch.stack(means)

    def describe(self) -> list[dict[str, list[str]]]:
        """What a recipe says of it."""
        return [context.describe() for context in self.contexts]


def choose_dev(
    task: Task, queries: Sequence[Example], dev: int | Sequence[Example] | None
) -> tuple[Example, ...]:
    """The queries that a layer is chosen on, apart from those that its score is reported on.

    Args:
        dev: how many, or which; ``None``: as many as there are queries, or as there are others.
            They follow the queries in ``task.test``, and then come from the end of ``task.train``.

    Raises:
        TaskError: if there are none, or one is among the queries.
    """
    sources = {query.source for query in queries}
    if dev is None or isinstance(dev, int):
        others = (*task.test[len(queries) :], *reversed(task.train))
        found = {e.source: e for e in others if e.source not in sources}
        if not found:
            raise TaskError(
                f"all {len(queries)} queries of the task {task.name!r} are asked, and its score is "
                "reported on them: none is left to choose the layer on; ask for fewer (n_queries), "
                "or give dev Examples of your own"
            )
        n_dev = min(len(queries), len(found)) if dev is None else dev
        if not 1 <= n_dev <= len(found):
            raise TaskError(
                f"dev is {n_dev}: expected 1 to {len(found)} queries to choose the layer on, "
                f"beside the {len(queries)} that its score is reported on; ask for fewer of these, "
                "or give examples"
            )
        return tuple(found.values())[:n_dev]
    expected = "a number of queries, or a list of Examples"
    given = check_items("dev", dev, expected, ordered=True, error=TaskError)
    if not given or not all(isinstance(example, Example) for example in given):
        refuse("dev", dev, f"{expected}, at least one", TaskError)
    shared = next((example.source for example in given if example.source in sources), None)
    if shared is not None:
        raise TaskError(
            f"dev holds the query {shared!r}, which the score is reported on, too: a layer that is "
            "chosen on it would be too good; give others"
        )
    return tuple(given)
