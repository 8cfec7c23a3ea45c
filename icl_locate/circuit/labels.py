"""What labels' states take over from their forerunners': the copying step of the circuit."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate.checks.signatures import anything, checked
from icl_locate.circuit.alignment import choose_k
from icl_locate.circuit.features import Items, choose_features
from icl_locate.circuit.inputs import DEFAULT_SHOTS, CircuitSetting, Compat, Measure
from icl_locate.circuit.neighbours import overlaps, unit_rows
from icl_locate.circuit.result import LayerMeasure, layer_measure
from icl_locate.circuit.streams import by_seed, query_states
from icl_locate.circuit.tokens import answer_prompts
from icl_locate.errors import TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice, Example
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.kept import keep_tables
from icl_locate.studies.place import using
from icl_locate.tasks.loading import load_task
from icl_locate.tasks.task import Task


@checked(TaskError, task=anything)
def label_alignment(
    model: Model,
    task: Task | str | Path,
    *,
    letters: bool = True,
    k: int | None = None,
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
    """How much labels' states take over from their forerunners': their alignment, layer by layer.

    Of each query's ``k`` nearest neighbours by the state of its right label, which is appended, the
    share that is so by the state of its forerunner token one layer earlier.

    Args:
        letters: whether labels are replaced by A, B, C, ... in the order in which the task's
            examples have them, so that they mean nothing by themselves; ``False`` keeps them.
        k, n_shots, n_queries, seeds, choice, prepend_bos, instruction, compat: as in
            `kernel_alignment`; so are ``batch_size`` and ``progress``.

    Returns:
        At layer ``l`` in ``0..n_layers - 1`` the states ``y`` at ``l + 1`` against ``s`` at ``l``:
        what block ``l`` could have copied. The arm "alignment", and two controls against the same
        ``s``: "one label", states of one label behind all queries alike, which tell apart only what
        they have from elsewhere; and "classes", right labels' identity in place of their states.

    Raises:
        TaskError: given prompts, a task without classes, or of more of them than there are letters;
            fewer queries than ``k + 1``.
        PromptError, ModelError, NumericalError: as `kernel_alignment` says.

    Source: Cho et al. (ICLR 2025), section 4.1, figure 5 (left); the controls are this package's
        own.
    """
    asked: dict[str, Any] = {
        "n_shots": n_shots, "n_queries": n_queries, "seeds": seeds, "choice": choice,
        "prepend_bos": prepend_bos, "instruction": instruction,
    }  # fmt: skip
    measure = Measure("label_alignment", str(compat))
    setting = CircuitSetting.of(task, measure, **asked)  # of the task's own labels first
    if letters:
        setting = CircuitSetting.of(name_by_letters(load_task(task)), measure, **asked)
    k = choose_k(k, setting.setting.n_queries)
    with using(store, study="label_alignment"):
        return _take_over(model, setting, k, letters, compat, batch_size, progress)


def _take_over(
    model: Model,
    setting: CircuitSetting,
    k: int,
    letters: bool,
    compat: str | None,
    batch_size: int,
    progress: bool,
) -> LayerMeasure:
    asked, own = setting.setting, compat is not None
    inputs = [setting.inputs(model, seed).prompts for seed in asked.seeds]
    right = [answer_prompts(some, some.target_tokens) for some in inputs]
    same = [answer_prompts(some, [some.target_tokens[0]] * len(some)) for some in inputs]
    recipe = setting.recipe(model, [*right, *same], k=k, letters=letters, compat=compat)
    items = Items([q.source for q in asked.queries], [q.target for q in asked.queries])
    classes = choose_features("labels", 0, asked.n_queries).unit_rows("labels", items)
    found: dict[str, list[Tensor]] = {"alignment": [], "one label": [], "classes": []}
    pairs = zip(right, same, strict=True)
    for some, alike in tqdm(
        pairs, total=len(right), unit="seed", desc=asked.task.name, disable=not progress
    ):

        def measure(some: Prompts = some, alike: Prompts = alike) -> dict[str, Tensor]:
            s, y = _unit_states(model, some, "sy", compat, batch_size)
            (one,) = _unit_states(model, alike, "y", compat, batch_size)
            return {
                "alignment": _layer_by_layer(y[1:], s[:-1], k, own),
                "one label": _layer_by_layer(one[1:], s[:-1], k, own),
                "classes": overlaps(s[:-1], classes, k, own=own),
            }

        said = {"measured": "labels", "k": k, "compat": compat, "classes": classes}
        for arm, table in keep_tables(model, [some, alike], said, measure).items():
            found[arm].append(table)
    return layer_measure(
        {arm: by_seed(tables) for arm, tables in found.items()},
        seeds=asked.seeds,
        chance=k / (asked.n_queries - (not own)),
        metric="label_alignment",
        provenance=recipe,
    )


def _unit_states(
    model: Model, prompts: Prompts, names: str, compat: str | None, batch_size: int
) -> list[list[Float[Tensor, "item d_model"]]]:
    """The states of each type at each layer, of rows of length 1."""
    found = query_states(model, prompts, names, compat=compat, batch_size=batch_size)
    return [
        [unit_rows(f"states of layer {i}", layer) for i, layer in enumerate(found[name])]
        for name in names
    ]


def _layer_by_layer(
    many: Sequence[Float[Tensor, "item d_model"]],
    others: Sequence[Float[Tensor, "item d_model"]],
    k: int,
    own: bool,
) -> Float[Tensor, "layer item"]:
    pairs = zip(many, others, strict=True)
    return torch.cat([overlaps([one], other, k, own=own) for one, other in pairs])


def name_by_letters(task: Task) -> Task:
    """The task with A, B, C, ... in place of its labels.

    Raises:
        TaskError: if it has more labels than there are letters.
    """
    labels = list(dict.fromkeys(example.target for example in task.train))
    if len(labels) > len(ascii_uppercase):
        raise TaskError(
            f"the task {task.name!r} has {len(labels)} labels: expected {len(ascii_uppercase)} at "
            "most, one for each letter; use letters=False, or a task of classes"
        )
    named = dict(zip(labels, ascii_uppercase, strict=False))

    def renamed(examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(
            replace(example, target=named.get(example.target, example.target))
            for example in examples
        )

    if task.prompts is not None:
        return task
    return replace(task, train=renamed(task.train), test=renamed(task.test))
