"""What hidden states are compared with: classes, another layer, given features, an encoder's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from icl_locate.checks.arguments import check_choice, check_count, check_items, check_text, refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.circuit.neighbours import unit_rows
from icl_locate.errors import TaskError
from icl_locate.studies.recipe import digest
from icl_locate.tasks.loading import load_task
from icl_locate.tasks.task import Task

Needs = Literal["labels", "states", "texts", "nothing"]
EXPECTED = (
    '"labels", a layer of the model, a tensor (item, d), or a function of a list of texts that '
    "gives one, such as a SentenceEncoder"
)


@short_repr("texts", "labels")
@dataclass(frozen=True)
class Items:
    """What features are made of: the queries of a task, or another data set's texts.

    Attributes:
        texts: of each item, alone.
        labels: of each; of mere texts ``None``.
        states: the model's, where they are asked for.
    """

    texts: Sequence[str]
    labels: Sequence[str] | None = None
    states: Float[Tensor, "layer item d"] | None = None


@dataclass(frozen=True)
class Features:
    """Reference features.

    Attributes:
        needs: what they are made of.
        make: makes them, a row for each item.
        said: what they are, for recipes.
    """

    needs: Needs
    make: Callable[[Items], Any]
    said: Mapping[str, Any]

    def unit_rows(self, name: str, items: Items) -> Float[Tensor, "item d"]:
        """The features of items, each row of length 1.

        Raises:
            TaskError: if they are no numbers, a row an item.
        """
        return unit_rows(name, self.make(items), len(items.texts))


def choose_features(features: Any, n_layers: int, n_items: int) -> Features:
    """Reference features from what a user gave; nothing is run.

    Raises:
        TaskError: what is none of them; a layer out of range; features of other items.
    """
    if isinstance(features, str):
        check_choice("features", features, ("labels",), error=TaskError)
        return Features("labels", _classes, {"kind": "labels"})
    if isinstance(features, Tensor):
        return given("features", features, n_items)
    if callable(features):
        name = getattr(features, "said", None) or getattr(features, "__qualname__", None)
        said = {"kind": "encoder", "encoder": name or type(features).__qualname__}
        return Features("texts", partial(_encode, features), said)
    try:
        layer = check_count("features", features, least=0, most=n_layers, error=TaskError)
    except TaskError:
        refuse("features", features, f"{EXPECTED}; a layer lies in 0..{n_layers}", TaskError)
    return Features("states", partial(_of_layer, layer), {"kind": "layer", "layer": layer})


def given(name: str, features: Tensor, n_items: int) -> Features:
    """Features that stand ready, of which each item has a row."""
    rows = unit_rows(name, features, n_items)
    hashed = sha256(rows.numpy().tobytes()).hexdigest()
    return Features("nothing", lambda _: features, {"kind": "given", "sha256": hashed})


@dataclass(frozen=True)
class Null:
    """Another data set's items, and their features.

    Attributes:
        features: made as the reference features are, or given.
        items: of mere texts or a task; their states are read where features ask for that.
        task: what states are read of.
    """

    features: Features
    items: Items
    task: Task | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What they are, for recipes."""
        texts = {"texts_sha256": digest(self.items.texts)} if any(self.items.texts) else {}
        return {**self.features.said, **texts, "task": self.task and self.task.name}


def choose_null(null: Any, features: Features, n_items: int) -> Null | None:
    """The other data set from what a user gave; of more items than there are queries the first.

    Raises:
        TaskError: fewer items; texts where features are made of labels, states or nothing.
    """
    if null is None:
        return None
    if isinstance(null, Tensor):
        _check_number(len(null) if null.ndim else 0, n_items)
        return Null(given("null", null[:n_items], n_items), Items([""] * n_items))
    if features.needs == "nothing":
        refuse("null", null, "a tensor (item, d), as features are", TaskError)
    if isinstance(null, (Task, str, Path)):
        task = load_task(null)
        _check_number(len(task.test), n_items)
        queries = task.test[:n_items]
        items = Items([query.source for query in queries], [query.target for query in queries])
        return Null(features, items, task)
    expected = "a task of other data, a file of one, a list of texts or a tensor (item, d)"
    texts = check_items("null", null, expected, ordered=True, error=TaskError)
    texts = [check_text(f"null[{i}]", text, error=TaskError) for i, text in enumerate(texts)]
    if features.needs != "texts":
        hint = f"features are made of {features.needs}, which mere texts have not"
        refuse("null", null, "a task, or a tensor (item, d)", TaskError, hint)
    _check_number(len(texts), n_items)
    return Null(features, Items(texts[:n_items]))


def _check_number(found: int, n_items: int) -> None:
    if found < n_items:
        raise TaskError(
            f"null has {found} items, but there are {n_items} queries, each of which is compared "
            "with one: give as many or more, or ask for fewer queries"
        )


def _classes(items: Items) -> Float[Tensor, "item label"]:
    """Which class each item is of: those of a class are as near as can be, others not at all."""
    labels = list(items.labels or ())
    known = list(dict.fromkeys(labels))
    return one_hot(torch.tensor([known.index(label) for label in labels])).double()


def _of_layer(layer: int, items: Items) -> Any:
    return None if items.states is None else items.states[layer]


def _encode(encoder: Callable[[list[str]], Any], items: Items) -> Any:
    return encoder(list(items.texts))
