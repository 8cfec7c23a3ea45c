"""Kernel alignment: whether states that are near each other belong to texts that are, too."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate.checks.arguments import check_choice
from icl_locate.checks.signatures import anything, checked
from icl_locate.circuit.features import Features, Items, Null, choose_features, choose_null
from icl_locate.circuit.inputs import DEFAULT_SHOTS, CircuitSetting, Compat, Measure
from icl_locate.circuit.neighbours import check_k, most_overlap, overlaps, unit_rows
from icl_locate.circuit.result import LayerMeasure, layer_measure
from icl_locate.circuit.streams import QUERY_TOKENS, by_seed, query_states
from icl_locate.circuit.tokens import answer_prompts
from icl_locate.errors import TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.kept import keep_tables
from icl_locate.studies.place import using
from icl_locate.tasks.task import Task

ITEMS_A_NEIGHBOUR = 8
"""Cho et al. take the 64 nearest of 512."""
ARMS = ("alignment", "null")


@checked(TaskError, task=anything, features=anything, null=anything)
def kernel_alignment(
    model: Model,
    task: Task | str | Path,
    *,
    features: Any = "labels",
    at: str = "s",
    k: int | None = None,
    null: Any = None,
    n_shots: int = DEFAULT_SHOTS,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = 0,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    instruction: bool = False,
    compat: Compat | None = None,
    batch_size: int = 32,
    progress: bool = False,
    store: str | Path | Store | None = None,
) -> LayerMeasure:
    """How many of a state's nearest neighbours are so by reference features, too, at each layer.

    Of a query's ``k`` nearest by cosine similarity of states, the share that is also among the
    ``k`` nearest by the features; `neighbour_overlap` says how ties count.

    Args:
        features: "labels": queries of a class are near each other, which asks for a task of
            classes; a layer 0..n_layers: the states there of the same tokens; a tensor (item, d);
            or a function of the queries' texts that gives one, such as a `SentenceEncoder`.
        at: the query's own token whose states are measured: "x", the last of its text; "s", the
            forerunner of its label; "y", the last of its right label, which is then appended.
        k: neighbours; ``None`` means an eighth of the queries, 64 of 512.
        null: another data set, whose features, in place of the queries' own, make the arm "null": a
            task, or a file of one; a list of texts, where features are made of texts; or a tensor
            (item, d). The first of more count; shuffle items that are ordered by class.
        n_queries: ``None`` means 512, or all; other options are as in `sweep`.
        choice: ``None`` means the task's way, or "balanced" where that is "random".
        compat: "cho2025" does what the authors' code does: an item's similarity to itself counts as
            0 instead of being left out, equal ones go as numpy's argsort, turned around, has them,
            and the last states are read behind the final norm.

    Returns:
        The arms "alignment" and, if it is asked for, "null", at ``n_layers + 1`` layers: 0 is what
        enters block 0. Its ``chance`` is that of drawn neighbours, ``k / (n - 1)`` (``k / n`` as
        the authors count). ``provenance["ceiling"]`` is what features allow: below 1 where these
        tie, as labels do.

    Raises:
        TaskError: given prompts; fewer queries than ``k + 1``; a task without classes where labels
            are compared; features of other items, or with NaN; a null of fewer items.
        PromptError: labels without forerunner tokens; prompts that do not fit the model.
        ModelError, NumericalError: as `icl_locate.states` says.

    Source: Cho et al. (ICLR 2025), section 3.1 and appendix A.2, figure 2.
    """
    plan = Alignment.of(
        model, task, features, at, k, null, compat, n_shots=n_shots, n_queries=n_queries,
        seeds=seeds, choice=choice, prepend_bos=prepend_bos, instruction=instruction,
    )  # fmt: skip
    with using(store, study="kernel_alignment"):
        return plan.run(model, batch_size, progress=progress)


@dataclass(frozen=True)
class Alignment:
    """What is aligned with what, checked before anything runs.

    Attributes:
        setting, k, at, compat: as of `kernel_alignment`.
        features: what states are compared with.
        null: and what else; or ``None``.
        other: the prompts whose states are the null's features; ``None`` where no states are.
    """

    setting: CircuitSetting
    features: Features
    null: Null | None
    other: CircuitSetting | None
    k: int
    at: str
    compat: str | None

    @classmethod
    def of(
        cls,
        model: Model,
        task: Task | str | Path,
        features: Any,
        at: str,
        k: int | None,
        null: Any,
        compat: str | None,
        **asked: Any,
    ) -> "Alignment":
        """From what a user gave."""
        at = check_choice("at", at, tuple(QUERY_TOKENS), error=TaskError)
        measure = Measure("kernel_alignment", f"at:{at}|{compat}")
        labelled = isinstance(features, str)
        setting = CircuitSetting.of(task, measure, classes=labelled, **asked)
        n_items = setting.setting.n_queries
        neighbours = choose_k(k, n_items)
        chosen = choose_features(features, int(model.cfg.n_layers), n_items)
        beside, other = choose_null(null, chosen, n_items), None
        if beside is not None and beside.task is not None and beside.features.needs == "states":
            asked = {**asked, "n_queries": n_items}
            other = CircuitSetting.of(beside.task, measure, classes=False, **asked)
        return cls(setting, chosen, beside, other, neighbours, at, compat)

    def run(self, model: Model, batch_size: int, *, progress: bool) -> LayerMeasure:
        """The alignment at each layer, under each seed."""
        asked, same = self.setting.setting, self.compat is not None
        prompts = self._prompts(model, self.setting)
        others = [None] * len(prompts) if self.other is None else self._prompts(model, self.other)
        recipe = self.setting.recipe(model, prompts, **self._said())
        sides = self._sides()
        tables: list[list[Tensor]] = [[] for _ in sides]
        ceilings = []
        shown = tqdm(prompts, unit="seed", desc=asked.task.name, disable=not progress)
        for batch, other in zip(shown, others, strict=True):

            def measure(batch: Prompts = batch, other: Prompts | None = other) -> dict[str, Tensor]:
                states = self._states(model, batch, batch_size)
                theirs = states if other is None else self._states(model, other, batch_size)
                rows = [unit_rows(f"states of layer {i}", one) for i, one in enumerate(states)]
                made = [side.rows(s) for side, s in zip(sides, (states, theirs), strict=False)]
                found = [overlaps(rows, features, self.k, own=same) for features in made]
                ceiling = torch.tensor(most_overlap(made[0], self.k), dtype=torch.float64)
                return {"ceiling": ceiling, **dict(zip(ARMS, found, strict=False))}

            said = {"measured": "alignment", **self._said(), "sides": [s.fixed for s in sides]}
            shown_now = [batch] if other is None else [batch, other]
            kept = keep_tables(model, shown_now, said, measure)
            ceilings.append(float(kept["ceiling"]))
            for arm, table in zip(ARMS, tables, strict=False):
                table.append(kept[arm])
        return layer_measure(
            {arm: by_seed(table) for arm, table in zip(ARMS, tables, strict=False)},
            seeds=asked.seeds,
            chance=self.k / (asked.n_queries - (not same)),
            metric="kernel_alignment",
            provenance={**recipe, "ceiling": sum(ceilings) / len(ceilings)},
        )

    def _said(self) -> dict[str, Any]:
        """What recipes say of it."""
        return {
            "at": self.at,
            "k": self.k,
            "compat": self.compat,
            "features": dict(self.features.said),
            "null": None if self.null is None else self.null.said,
        }

    def _sides(self) -> list["_Side"]:
        """What states are compared with: the features, and the null's."""
        queries = self.setting.setting.queries
        items = Items([query.source for query in queries], [query.target for query in queries])
        sides = [_Side("features", self.features, items)]
        if self.null is not None:
            sides.append(_Side("null", self.null.features, self.null.items))
        return sides

    def _prompts(self, model: Model, setting: CircuitSetting) -> list[Prompts]:
        """Those of each seed, with right labels behind the queries where these are measured."""
        found = [setting.inputs(model, seed).prompts for seed in setting.setting.seeds]
        if self.at != "y":
            return found
        return [answer_prompts(prompts, prompts.target_tokens) for prompts in found]

    def _states(
        self, model: Model, prompts: Prompts, batch_size: int
    ) -> Float[Tensor, "layer item d_model"]:
        found = query_states(model, prompts, [self.at], compat=self.compat, batch_size=batch_size)
        return found[self.at]


class _Side:
    """Features of items, made once where they are not made of states, which each seed has anew."""

    def __init__(self, name: str, features: Features, items: Items) -> None:
        self._name, self._features, self._items = name, features, items
        fixed = features.needs != "states"
        self.fixed = features.unit_rows(name, items) if fixed else None

    def rows(self, states: Float[Tensor, "layer item d_model"]) -> Float[Tensor, "item d"]:
        """The features under a seed, of rows of length 1."""
        if self.fixed is not None:
            return self.fixed
        return self._features.unit_rows(self._name, replace(self._items, states=states))


def choose_k(k: int | None, n_items: int) -> int:
    """How many neighbours count: as many as asked for, else an eighth of the items.

    Raises:
        TaskError: if there are not so many.
    """
    chosen = max(1, n_items // ITEMS_A_NEIGHBOUR) if k is None else k
    check_k(chosen, n_items)
    return chosen
