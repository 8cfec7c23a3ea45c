"""Vectors put into prompts without context: every run of a study of them, and what it scored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from icl_locate.interventions.states import StateEdit
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts
from icl_locate.studies.setting import Setting
from icl_locate.vectors.contexts import Source
from icl_locate.vectors.controls import random_like
from icl_locate.vectors.runs import NOTHING, Runs, Table, Vectors, check_learnt, scores_of, tensors
from icl_locate.vectors.task_result import VECTOR, TaskVectors


@dataclass(frozen=True)
class Study:
    """What task vectors are made of, and where they are put in.

    Attributes:
        test, dev: the settings of the queries that scores are reported on, and layers chosen on.
        source, other: what the task's vectors are made of, and another task's.
    """

    test: Setting
    dev: Setting
    source: Source
    other: Source | None
    layers: tuple[int, ...]
    controls: tuple[str, ...]

    def result(self, runs: Runs, *, pairs: bool) -> TaskVectors:
        """Make the vectors, put them in, and collect what they score."""
        dev, test = (self._prompts(runs.model, setting) for setting in (self.dev, self.test))
        recipe = self._recipe(runs, [*dev, *test])
        few_shot = _few_shot(runs, self.dev, dev)
        check_learnt(self.dev, few_shot)
        arms = self._vectors(runs.model)
        grid = [(arm, layer) for arm in arms.values() for layer in self.layers]
        found, zero_shot = _put_in(runs, self.dev, dev[0], grid)
        found = found.reshape(len(arms), len(self.layers), *found.shape[1:])
        scores = scores_of(self.dev, found)
        best = self.layers[int(scores[0].mean(axis=-1).argmax())]
        at_best = [(arm, best) for arm in arms.values()]
        tested, bare = _put_in(runs, self.test, test[0], at_best)
        tested = np.stack([*tested, bare, _few_shot(runs, self.test, test)])
        tables = {
            "statistics": np.concatenate([found[0], zero_shot[None], few_shot[None]]),
            "scores": scores[0],
            "zero_shot": scores_of(self.dev, zero_shot),
            "few_shot": scores_of(self.dev, few_shot),
            "control_statistics": found[1:],
            "control_scores": scores[1:],
            "test_statistics": tested,
            "test": scores_of(self.test, tested),
        }
        if pairs:
            table = self._pairs(runs, dev[0], arms[VECTOR], found[0])
            tables |= {"pair_statistics": table, "pair_scores": scores_of(self.dev, table)}
        return TaskVectors(
            layers=self.layers,
            seeds=self.test.seeds,
            controls=self.controls,
            vectors=arms[VECTOR],
            metric=self.test.metric.name,
            provenance=recipe | self.test.outcome(),
            custom_metric=self.test.custom_metric,
            **tensors(tables),
        )

    def _prompts(self, model: Model, setting: Setting) -> list[Prompts]:
        """The queries' prompts without context, and then with it, seed by seed."""
        bare = replace(setting, n_shots=0).prompts(model, 0, instruction=False)
        return [bare, *(setting.prompts(model, s, instruction=False) for s in setting.seeds)]

    def _vectors(self, model: Model) -> dict[str, Vectors]:
        """The task's vectors, and those of the controls."""
        found = {VECTOR: self.source.vectors(model)}
        for name in self.controls:
            if name == "random":
                pairs = zip(found[VECTOR], self.test.seeds, strict=True)
                found[name] = torch.stack([random_like(vectors, seed) for vectors, seed in pairs])
            elif name == "shuffled":
                found[name] = self.source.shuffled().vectors(model)
            elif self.other is not None:
                found[name] = self.other.vectors(model)
        return found

    def _pairs(self, runs: Runs, bare: Prompts, vectors: Vectors, own: Table) -> Table:
        """Of each layer's vectors at every layer; at their own they are known."""
        n_layers = len(self.layers)
        edits = [
            StateEdit("replace", vector, to)
            for start in self.layers
            for to in self.layers
            if to != start
            for vector in vectors[:, start]
        ]
        table = np.empty((n_layers, n_layers, *own.shape[1:]))
        elsewhere = ~np.eye(n_layers, dtype=bool)
        if edits:
            found = runs.tables(self.dev, bare, edits)
            table[elsewhere] = found.reshape(-1, *own.shape[1:])
        table[~elsewhere] = own
        return table

    def _recipe(self, runs: Runs, shown: Sequence[Prompts]) -> dict[str, Any]:
        sources = [self.source, *([] if self.other is None else [self.other])]
        read = [prompts for source in sources for prompts in source.prompts(runs.model)]
        return {
            **self.test.recipe(runs.model, [*shown, *read]),
            "dev_queries": [query.source for query in self.dev.queries],
            "contexts": self.source.describe(),
            "other": None if self.other is None else self.other.setting.task.name,
            "engine": str(runs.engine),
        }


def _put_in(
    runs: Runs, setting: Setting, bare: Prompts, grid: Sequence[tuple[Vectors, int]]
) -> tuple[Table, Table]:
    """Statistics with vectors after a block, by seed; and those without one."""
    edits = [
        StateEdit("replace", vector, layer)
        for vectors, layer in grid
        for vector in vectors[:, layer]
    ]
    found = runs.tables(setting, bare, [*edits, NOTHING])
    n_seeds = len(setting.seeds)
    clean = np.stack([found[-1]] * n_seeds)
    return found[:-1].reshape(len(grid), *clean.shape), clean


def _few_shot(runs: Runs, setting: Setting, shown: Sequence[Prompts]) -> Table:
    """Statistics with demonstrations in the prompt, seed by seed."""
    return np.stack([runs.tables(setting, one, [NOTHING])[0] for one in shown[1:]])
