"""Centroid probes: which layer's states tell a query's class by their distance from class means.

Hidden calibration: means of states at one type of token, over prompts that are not tested, classify
states at that or another type of token of the prompts that are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate._types import Segment
from icl_locate.checks.arguments import check_items
from icl_locate.checks.signatures import anything, checked, one_of, whole
from icl_locate.circuit.calibration import draw_calibration
from icl_locate.circuit.centroids import class_means, nearest_shares
from icl_locate.circuit.inputs import DEFAULT_SHOTS, CircuitSetting, Compat, Inputs, Measure
from icl_locate.circuit.result import LayerMeasure, layer_measure
from icl_locate.circuit.streams import ByType, by_seed, query_states
from icl_locate.circuit.tokens import answer_prompts
from icl_locate.engine.labels import label_tokens
from icl_locate.engine.states import stream_states
from icl_locate.errors import TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.kept import keep_tables
from icl_locate.studies.place import using
from icl_locate.tasks.task import Task

WRONG, ALONE = "y wrong", "label alone"


class Preset(NamedTuple):
    """The types of token whose states make the means, and whose are classified by them."""

    trained: str
    tested: str


PRESETS: Mapping[str, Preset] = {
    "s->s": Preset("s", "s"),
    "x->x": Preset("x", "x"),
    "s->y": Preset("s", "y"),
    "s->y wrong": Preset("s", WRONG),
    "y->y": Preset("y", "y"),
    "y->y wrong": Preset(WRONG, WRONG),
    "s->label alone": Preset("s", ALONE),
}
SHOWN = ", as shown"
"""Behind a preset of wrong labels: how often the class of the label itself is what comes out."""


@checked(TaskError, task=anything, presets=anything, n_calibration=whole(1))
def centroid_probe(
    model: Model,
    task: Task | str | Path,
    *,
    presets: str | Iterable[str] | None = "s->s",
    n_calibration: int = 256,
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
    """How often the nearest class mean of the states of a layer is that of the query's class.

    The means are over calibration prompts: their queries are drawn from ``task.train`` without the
    test queries, in rounds if there are too few of them, and each prompt has examples of its own.
    Distances are Euclidean (L2); of means that are equally near each counts for its share.

    Args:
        presets: one or several of these, or ``None`` for all seven, of which each is an arm. The
            first name is that of the token whose states make the means, the second of the one that
            is tested: "s->s", "x->x", "s->y" and "y->y" (the query's right label is appended),
            "s->y wrong" and "y->y wrong" (a wrong one is, the next class's; and so it is in the
            calibration of the latter, whose means are by the class of the label that stands there),
            and "s->label alone" (the right label without any context).
        n_calibration: calibration prompts for each seed, of other queries: of a file without
            splits ``n_queries=None`` leaves half of it for them.
        n_shots, n_queries, choice, prepend_bos, instruction, batch_size, progress: as in
            `kernel_alignment`.
        seeds: each draws other examples, and other calibration prompts.
        compat: "cho2025" reads the last states behind the final norm.

    Returns:
        An arm for each preset, at ``n_layers + 1`` layers: 0 is what enters block 0. What counts is
        the query's true class, with a wrong label behind it, too; beside such an arm stands one
        ", as shown", in which the wrong label's own class counts. ``chance`` is ``1 / classes``.

    Raises:
        TaskError: given prompts; a task without classes; a preset that there is none of; a class
            that no calibration query is of; no training examples but test queries.
        PromptError, ModelError, NumericalError: as `kernel_alignment` says.

    Source: Cho et al. (ICLR 2025), sections 3.2 and 4, figures 3 and 5 (right).
    """
    chosen = choose_presets(presets)
    setting = CircuitSetting.of(
        task, Measure("centroid_probe", str(compat)), n_shots=n_shots, n_queries=n_queries,
        seeds=seeds, choice=choice, prepend_bos=prepend_bos, instruction=instruction, spares=True,
    )  # fmt: skip
    with using(store, study="centroid_probe"):
        return _probe(model, setting, chosen, n_calibration, compat, batch_size, progress)


def _probe(
    model: Model,
    setting: CircuitSetting,
    chosen: tuple[str, ...],
    n_calibration: int,
    compat: str | None,
    batch_size: int,
    progress: bool,
) -> LayerMeasure:
    asked = setting.setting
    drawn = [draw_calibration(setting, seed, n_calibration) for seed in asked.seeds]
    trained, tested = ({getattr(PRESETS[name], part) for name in chosen} for part in Preset._fields)
    pairs = [
        (
            _Stage.of(model, setting, setting.inputs(model, seed, shown), trained),
            _Stage.of(model, setting, setting.inputs(model, seed), tested),
        )
        for seed, shown in zip(asked.seeds, drawn, strict=True)
    ]
    prompts = [some for pair in pairs for stage in pair for some in stage.prompts]
    recipe = setting.recipe(model, prompts, n_calibration=n_calibration, compat=compat)
    found: dict[str, list[Tensor]] = {}
    for stages in tqdm(pairs, unit="seed", desc=asked.task.name, disable=not progress):

        def measure(stages: tuple[_Stage, _Stage] = stages) -> dict[str, Tensor]:
            learned, read = (stage.states(model, compat, batch_size) for stage in stages)
            return _arms(chosen, setting, stages, learned, read)

        said = {"measured": "probe", "presets": chosen, "labels": setting.labels, "compat": compat}
        shown = [some for stage in stages for some in stage.prompts]
        for arm, table in keep_tables(model, shown, said, measure).items():
            found.setdefault(arm, []).append(table)
    return layer_measure(
        {arm: by_seed(tables) for arm, tables in found.items()},
        seeds=asked.seeds,
        chance=1 / len(setting.labels),
        metric="centroid_probe",
        provenance=recipe,
    )


def choose_presets(presets: object) -> tuple[str, ...]:
    """One preset or several, each once, or all seven.

    Raises:
        TaskError: if there is none of a name, or none at all.
    """
    if presets is None:
        return tuple(PRESETS)
    known = one_of(*PRESETS)
    if isinstance(presets, str):
        return (known("presets", presets, TaskError),)
    expected = f"names among {', '.join(PRESETS)}"
    names = check_items("presets", presets, expected, error=TaskError)
    found = [known(f"presets[{i}]", name, TaskError) for i, name in enumerate(names)]
    if not found:
        raise TaskError(f"presets are empty: expected {expected}, or None for all of them")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class _Stage:
    """Prompts of calibration or test, as the types of token ask for them.

    Attributes:
        asked: the class of each query.
        runs: which types are read of which prompts.
    """

    asked: Int[Tensor, "item"]
    runs: tuple[tuple[tuple[str, ...], Prompts], ...]

    @classmethod
    def of(cls, model: Model, setting: CircuitSetting, inputs: Inputs, types: set[str]) -> "_Stage":
        """The prompts that give the states of some types, in as few runs as can be."""
        prompts, asked = inputs.prompts, inputs.asked
        tokens = label_tokens(model, prompts, setting.labels) if types - {"x", "s"} else []
        runs = []
        plain = tuple(sorted(types - {WRONG, ALONE}))
        if plain:
            right = _labels(tokens, asked) if "y" in plain else None
            runs.append((plain, prompts if right is None else answer_prompts(prompts, right)))
        if WRONG in types:
            wrong = _labels(tokens, setting.wrong(asked))
            runs.append(((WRONG,), answer_prompts(prompts, wrong)))
        if ALONE in types:
            runs.append(((ALONE,), labels_alone(prompts, _labels(tokens, asked))))
        return cls(asked, tuple(runs))

    @property
    def prompts(self) -> list[Prompts]:
        """All that will run."""
        return [prompts for _, prompts in self.runs]

    def states(self, model: Model, compat: str | None, batch_size: int) -> ByType:
        """The states of all types."""
        found: ByType = {}
        for names, prompts in self.runs:
            if ALONE in names:
                last = torch.zeros_like(prompts.attention_mask)
                last[:, -1] = True
                alone = stream_states(
                    model, prompts, last, final_norm=compat is not None, batch_size=batch_size
                )
                found[ALONE] = alone[:, :, 0]
                continue
            wanted = {"y" if name == WRONG else name: name for name in names}
            read = query_states(model, prompts, wanted, compat=compat, batch_size=batch_size)
            found |= {wanted[name]: states for name, states in read.items()}
        return found


def _labels(
    tokens: Sequence[Sequence[Sequence[int]]], classes: Int[Tensor, "item"]
) -> list[list[int]]:
    """The tokens of a label of each class, as they continue each prompt."""
    return [list(tokens[label][prompt]) for prompt, label in enumerate(classes.tolist())]


def labels_alone(prompts: Prompts, labels: Sequence[Sequence[int]]) -> Prompts:
    """Labels' tokens without the prompts that they continue, behind BOS where these have it."""
    bos = [
        row[some].tolist()
        for row, some in zip(prompts.tokens, prompts.segments == Segment.BOS, strict=True)
    ]
    rows = [[*start, *label] for start, label in zip(bos, labels, strict=True)]
    return Prompts.from_tokens(rows, [["query"] * len(row) for row in rows], targets=labels)


def _arms(
    chosen: Iterable[str],
    setting: CircuitSetting,
    stages: tuple[_Stage, _Stage],
    learned: Mapping[str, Float[Tensor, "layer calibration d_model"]],
    read: ByType,
) -> dict[str, Float[Tensor, "layer item"]]:
    """How each preset classifies the test queries."""
    (first, second), n_classes = (stage.asked for stage in stages), len(setting.labels)
    found = {}
    for name in chosen:
        preset = PRESETS[name]
        shown = setting.wrong(first) if preset.trained == WRONG else first
        means = class_means(learned[preset.trained], shown, n_classes)
        shares = nearest_shares(read[preset.tested], means)
        found[name] = _at(shares, second)
        if preset.tested == WRONG:
            found[name + SHOWN] = _at(shares, setting.wrong(second))
    return found


def _at(
    shares: Float[Tensor, "layer item label"], classes: Int[Tensor, "item"]
) -> Float[Tensor, "layer item"]:
    wanted = classes[None, :, None].expand(len(shares), -1, 1)
    return shares.gather(2, wanted)[..., 0]
