"""States of many positions, taken from one task's prompts and put into another's.

What one position does not transfer, all the examples' outputs together may (arXiv 2605.04061).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.engine.choice import Engine
from icl_locate.engine.states import states
from icl_locate.errors import MaskError, TaskError
from icl_locate.interventions.places import At, Places, as_places, chosen_positions
from icl_locate.interventions.states import StateEdit
from icl_locate.metrics import Metric, TextScore
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice, Example, choose_examples
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.place import Executor
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task
from icl_locate.vectors.controls import random_like, shuffle_labels
from icl_locate.vectors.patch_result import Patched
from icl_locate.vectors.runs import (
    NOTHING,
    Runs,
    check_learnt,
    choose_controls,
    choose_layers,
    scores_of,
    tensors,
    with_examples,
)

CONTROLS = ("random", "shuffled")
Shots = Sequence[Sequence[Example]]
PLACES: Mapping[str, Any] = MappingProxyType(
    {
        "all outputs": At("examples", "target", shot="each", which="last"),
        "one output": At("examples", "target", which="last"),
        "last token": "last",
    }
)
"""The last token of every example's target; of the last example's; of the prompt."""


@checked(
    TaskError, task=anything, other=anything, places=anything, controls=anything, metric=anything,
    layers=anything, n_shots=whole(1),
)  # fmt: skip
def patch_states(
    model: Model,
    task: Task | str | Path,
    other: Task | str | Path | None = None,
    *,
    places: Mapping[str, Any] | None = None,
    controls: Iterable[str] | None = None,
    n_shots: int = 5,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = (0, 1, 2),
    metric: str | Metric | TextScore | None = "first_token_accuracy",
    layers: int | Iterable[int] | None = None,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    max_new_tokens: int = 50,
    batch_size: int = 64,
    token_budget: int | None = None,
    engine: Engine | str = "auto",
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> Patched:
    """Put states of a task's prompts into prompts of another, at many positions or at one.

    Both prompts have the same sources in the same order; their examples' targets differ. States
    replace those at the same places, in their order, after the same block. Options are as in
    `task_vectors`.

    Args:
        task: whose prompts give states, and whose answers are scored.
        other: whose targets the prompts show that take them, for the same sources; ``None``: the
            task's own, dealt out anew among the examples.
        places: names, and what `StateEdit` takes as ``at``; ``None``: the last token of all the
            examples' targets, of the last one's, and of the prompt. Where targets are longer,
            ``At("examples", "target", shot="each")`` names all of their tokens.
        controls: of "random" and "shuffled" (`Patched`); ``None``: both.

    Raises:
        TaskError: no example that both tasks have; a task that the model never gets right; an
            option out of range.
        MaskError: places that a prompt lacks, or has more or fewer of than the other; layers that
            the model does not have.
        PromptError, ModelError, NumericalError: as their sources say.
    """
    chosen = check_places(PLACES if places is None else places)
    mine = with_examples("task", task)
    theirs = None if other is None else with_examples("other", other)
    if theirs is not None:
        mine = _shared(mine, theirs)
    setting = Setting.of(
        mine, metric=metric, n_queries=n_queries, seeds=seeds, n_shots=n_shots, choice=choice,
        prepend_bos=prepend_bos, max_new_tokens=max_new_tokens, most_queries=32,
    )  # fmt: skip
    study = _Patching(
        setting, theirs, chosen, choose_layers(model, layers), choose_controls(controls, CONTROLS)
    )
    runs = Runs(model, engine, batch_size, token_budget)
    with runs.showing("patch_states", store, executor, progress=progress) as shown:
        return study.result(shown)


def check_places(places: object) -> dict[str, Places]:
    """Places by their names.

    Raises:
        TaskError: if there are none, or a name is no text.
        MaskError: if one names no positions.
    """
    expected = "a mapping of names to positions, such as {'last token': 'last'}"
    if not isinstance(places, Mapping) or not places:
        refuse("places", places, expected, TaskError)
    if not all(isinstance(name, str) and name for name in places):
        refuse("places", places, expected, TaskError)
    return {name: as_places(at) for name, at in places.items()}


def _shared(task: Task, other: Task) -> Task:
    """The task with those examples alone that the other has, too."""
    theirs = {example.source for example in other.train}
    train = tuple(example for example in task.train if example.source in theirs)
    if not train:
        raise TaskError(
            f"the tasks {task.name!r} and {other.name!r} have no example of the same source: "
            "expected some; leave other out, and the task's own labels are dealt out anew"
        )
    return replace(task, train=train)


@dataclass(frozen=True)
class _Patching:
    """The prompts of a study of patching, and every run on them."""

    setting: Setting
    other: Task | None
    places: dict[str, Places]
    layers: tuple[int, ...]
    controls: tuple[str, ...]

    def result(self, runs: Runs) -> Patched:
        setting, model = self.setting, runs.model
        shown = [self._prompts(model, seed) for seed in setting.seeds]
        recipe = {
            **setting.recipe(model, [prompts for some in shown for prompts in some]),
            "other": None if self.other is None else self.other.name,
            "places": {name: [repr(at) for at in some] for name, some in self.places.items()},
            "engine": str(runs.engine),
        }
        donor = np.stack([runs.tables(setting, some[0], [NOTHING])[0] for some in shown])
        check_learnt(setting, donor)
        found = []
        for seed, some in zip(setting.seeds, shown, strict=True):
            edits = self._edits(model, seed, some)
            found.append(runs.tables(setting, some[1], [*edits, NOTHING]))
        cells = np.stack(found, axis=1)  # [cell, seed, item, stat]
        arms = self._arms()
        scores = scores_of(setting, cells)
        tables = {
            "statistics": np.concatenate([cells[:-1], donor[None], cells[-1:]]),
            "scores": scores[:-1].reshape(len(arms), len(self.layers), -1),
            "ceiling": scores_of(setting, donor),
            "floor": scores[-1],
        }
        return Patched(
            arms=arms,
            layers=self.layers,
            seeds=setting.seeds,
            metric=setting.metric.name,
            provenance=recipe | setting.outcome(),
            custom_metric=setting.custom_metric,
            **tensors(tables),
        )

    def _arms(self) -> tuple[str, ...]:
        ends = ("", *(f": {control}" for control in self.controls))
        return tuple(f"{name}{end}" for name in self.places for end in ends)

    def _prompts(self, model: Model, seed: int) -> list[Prompts]:
        """What gives states, what takes them, and what gives shuffled ones."""
        setting, choice = self.setting, str(self.setting.choice)
        drawn = [
            choose_examples(query, setting.task.train, setting.n_shots, seed=seed, choice=choice)
            for query in setting.queries
        ]
        shown = [drawn, self._relabelled(drawn, f"{seed}/takes")]
        if "shuffled" in self.controls:
            shown.append(_shuffled(drawn, f"{seed}/control"))
        return [setting.prompts(model, seed, instruction=False, shots=shots) for shots in shown]

    def _relabelled(self, drawn: Shots, key: str) -> Shots:
        """The same sources with the other task's targets, or with their own dealt out anew."""
        if self.other is None:
            return _shuffled(drawn, key)
        theirs = {example.source: example for example in self.other.train}
        return [[theirs[example.source] for example in shots] for shots in drawn]

    def _edits(self, model: Model, seed: int, shown: Sequence[Prompts]) -> list[StateEdit]:
        """One for each arm and layer."""
        given, taken, *shuffled = shown
        found = []
        for name, at in self.places.items():
            _check_alike(name, at, given, taken)
            own = states(model, given, at)
            arms = [own] + [
                random_like(own, seed) if control == "random" else states(model, shuffled[0], at)
                for control in self.controls
            ]
            found += [
                StateEdit("replace", some[layer], layer, at=at)
                for some in arms
                for layer in self.layers
            ]
        return found


def _shuffled(drawn: Shots, key: str) -> Shots:
    return [shuffle_labels(shots, f"{key}/{i}") for i, shots in enumerate(drawn)]


def _check_alike(name: str, at: Places, given: Prompts, taken: Prompts) -> None:
    """Refuse places of which two prompts have other numbers: states would not fit."""
    counts = [chosen_positions(at, some).sum(dim=1).tolist() for some in (given, taken)]
    for i, (gives, takes) in enumerate(zip(*counts, strict=True)):
        if gives != takes:
            raise MaskError(
                f"the place {name!r} has {gives} positions in prompt {i} of the task, and {takes} "
                "in that which takes its states: expected as many; name single tokens, such as "
                "At('examples', 'target', shot='each', which='last')"
            )
