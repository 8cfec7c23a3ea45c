"""What training runs found: curves over the sequences seen, and the weights in the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icl_locate.checks.arguments import check_items, check_seeds, refuse
from icl_locate.checks.contents import check_names, check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked, number
from icl_locate.errors import ResultError
from icl_locate.formation.model import FormationModel, FormationShape
from icl_locate.formation.task import FormationTask
from icl_locate.records.saved import Saved

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD = 0.4 * math.log(2)
"""The loss below which the paper calls the task learnt; log 2 is that of guessing between two."""
_CURVES = (
    "losses", "accuracies", "set_losses", "strengths", "previous_token", "only_head", "progress",
    "weights",
)  # fmt: skip


@short_repr("clamps", "seed", "n_sequences", "losses", "accuracies", "strengths")
@dataclass(frozen=True)
class FormationRun(
    Saved,
    form="icl_locate.FormationRun/1",
    tensors=("sequences", *_CURVES),
    labels=("sets", "measures", "clamps", "provenance"),
):
    """One training run. A point is a moment of training at which the model was measured.

    Attributes:
        sequences: seen by the model at each point; the first is 0.
        losses: on training sequences, in nats; guessing between the context's labels gives log 2.
        accuracies, set_losses: the share of right labels, and the loss in nats, on each of the
            ``sets``, of which the first is "train".
        strengths: of the heads of layer 2: attention to the right label minus that to the wrong
            one, in [-1, 1].
        previous_token: of the heads of layer 1: attention to the token before, in [0, 1].
        only_head: accuracy with only this head of layer 2, the values of the others at 0.
        progress: the ``measures``, in [0, 1].
        weights: of the model in the end, as `model` takes them.
        sets, measures, clamps: names; clamps that have none are spelt out.
        provenance: task, shape, seed, learning rate, batch size, versions, commit, machine.
    """

    sequences: Int[Tensor, "point"]
    losses: Float[Tensor, "point"]
    accuracies: Float[Tensor, "set point"]
    set_losses: Float[Tensor, "set point"]
    strengths: Float[Tensor, "point head"]
    previous_token: Float[Tensor, "point head"]
    only_head: Float[Tensor, "point head"]
    progress: Float[Tensor, "measure point"]
    weights: Float[Tensor, "weight"]
    sets: tuple[str, ...]
    measures: tuple[str, ...]
    clamps: tuple[str, ...]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        settle(
            self,
            sets=check_names("sets", self.sets, distinct=True),
            measures=check_names("measures", self.measures, distinct=True),
            clamps=_names("clamps", self.clamps),
            provenance=check_recipe(self.provenance),
        )
        _check_points(self.sequences)
        _check_curves(self, (), self.strengths)

    @property
    def points(self) -> tuple[int, ...]:
        """The sequences seen at each point."""
        return tuple(self.sequences.tolist())

    @checked(ResultError, threshold=number(above=0))
    def reached(self, threshold: float = THRESHOLD) -> int | None:
        """After how many sequences the loss first fell below a threshold; ``None`` if never.

        Between the last point above and the first one below, the loss is taken as a straight line.

        Raises:
            ResultError: if the threshold is no positive number.
        """
        below = (self.losses < threshold).nonzero()
        if not len(below):
            return None
        point = int(below[0])
        if point == 0:
            return int(self.sequences[0])
        high, low = self.losses[point - 1].item(), self.losses[point].item()
        before, after = self.sequences[point - 1].item(), self.sequences[point].item()
        return round(before + (after - before) * (high - threshold) / (high - low))

    def model(self) -> FormationModel:
        """The model at the end of the run.

        Raises:
            ResultError: if the run does not say its task and shape, or has other weights.
        """
        return FormationModel.of(self.task, self.shape, self.weights)

    @property
    def task(self) -> FormationTask:
        """What the model was trained on."""
        return FormationTask(**_part(self.provenance, "task"))

    @property
    def shape(self) -> FormationShape:
        """The model's sizes."""
        return FormationShape(**_part(self.provenance, "shape"))

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a point: sequences, loss, accuracy and loss of each set, scores of each head."""
        import pandas as pd

        columns: dict[str, Any] = {"sequences": self.sequences.numpy(), "loss": self.losses.numpy()}
        for name, accuracy, loss in zip(self.sets, self.accuracies, self.set_losses, strict=True):
            columns |= {f"{name}_accuracy": accuracy.numpy(), f"{name}_loss": loss.numpy()}
        columns |= dict(zip(self.measures, self.progress.numpy(), strict=True))
        for kind in ("strengths", "previous_token", "only_head"):
            table = getattr(self, kind)
            columns |= {f"{kind}_{head}": table[:, head].numpy() for head in range(table.shape[1])}
        return pd.DataFrame(columns)


@short_repr("labels", "seeds", "n_sequences", "losses")
@dataclass(frozen=True)
class FormationStudy(
    Saved,
    form="icl_locate.FormationStudy/1",
    tensors=("sequences", *_CURVES),
    labels=("labels", "seeds", "sets", "measures", "clamps", "provenance"),
):
    """Training runs under several clamps and seeds, side by side.

    Attributes:
        labels: of the runs' clamps, such as "layer 1".
        seeds: each label was trained with.
        clamps: of each label, by name.
        sequences, sets, measures, provenance: as of a `FormationRun`; all runs share them.
        losses, accuracies, set_losses, strengths, previous_token, only_head, progress, weights: as
            of a `FormationRun`, for each label and seed.
    """

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    sequences: Int[Tensor, "point"]
    losses: Float[Tensor, "label seed point"]
    accuracies: Float[Tensor, "label seed set point"]
    set_losses: Float[Tensor, "label seed set point"]
    strengths: Float[Tensor, "label seed point head"]
    previous_token: Float[Tensor, "label seed point head"]
    only_head: Float[Tensor, "label seed point head"]
    progress: Float[Tensor, "label seed measure point"]
    weights: Float[Tensor, "label seed weight"]
    sets: tuple[str, ...]
    measures: tuple[str, ...]
    clamps: tuple[tuple[str, ...], ...]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        clamps = check_items("clamps", self.clamps, "a list of lists of names", error=ResultError)
        settle(
            self,
            labels=check_names("labels", self.labels, distinct=True),
            seeds=check_seeds(self.seeds, error=ResultError),
            sets=check_names("sets", self.sets, distinct=True),
            measures=check_names("measures", self.measures, distinct=True),
            clamps=tuple(_names(f"clamps[{i}]", names) for i, names in enumerate(clamps)),
            provenance=check_recipe(self.provenance),
        )
        if len(self.clamps) != len(self.labels):
            refuse("clamps", self.clamps, f"{len(self.labels)} lists, one a label", ResultError)
        _check_points(self.sequences)
        _check_curves(self, (len(self.labels), len(self.seeds)), self.strengths)

    @classmethod
    def of(
        cls, runs: Mapping[str, Sequence[FormationRun]], seeds: Sequence[int]
    ) -> "FormationStudy":
        """The runs of each label, one a seed, all measured at the same points."""
        first = next(iter(runs.values()))[0]
        curves = {
            name: torch.stack([torch.stack([getattr(r, name) for r in of]) for of in runs.values()])
            for name in _CURVES
        }
        shared = {k: v for k, v in first.provenance.items() if k not in ("seed", "acting")}
        return cls(
            labels=tuple(runs),
            seeds=tuple(seeds),
            sequences=first.sequences,
            sets=first.sets,
            measures=first.measures,
            clamps=tuple(of[0].clamps for of in runs.values()),
            provenance=shared,
            **curves,
        )

    @cached_property
    def runs(self) -> Mapping[str, tuple[FormationRun, ...]]:
        """The runs of each label, one a seed."""
        return {
            label: tuple(self._run(i, j) for j in range(len(self.seeds)))
            for i, label in enumerate(self.labels)
        }

    def _run(self, label: int, seed: int) -> FormationRun:
        return FormationRun(
            sequences=self.sequences,
            sets=self.sets,
            measures=self.measures,
            clamps=self.clamps[label],
            provenance={**self.provenance, "seed": self.seeds[seed]},
            **{name: getattr(self, name)[label, seed] for name in _CURVES},
        )

    @checked(ResultError, threshold=number(above=0))
    def times(self, threshold: float = THRESHOLD) -> dict[str, tuple[int | None, ...]]:
        """After how many sequences the loss fell below a threshold: by label, one a seed.

        As `FormationRun.reached` says; ``None`` where it never did.

        Raises:
            ResultError: if the threshold is no positive number.
        """
        return {
            label: tuple(run.reached(threshold) for run in runs)
            for label, runs in self.runs.items()
        }

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a point of a run: label, seed, and the columns of `FormationRun.to_dataframe`."""
        import pandas as pd

        frames = []
        for label, runs in self.runs.items():
            for seed, run in zip(self.seeds, runs, strict=True):
                frame = run.to_dataframe()
                frame.insert(0, "label", label)
                frame.insert(1, "seed", seed)
                frames.append(frame)
        return pd.concat(frames, ignore_index=True)


def _names(name: str, value: Any) -> tuple[str, ...]:
    """Texts; there may be none."""
    given = check_items(name, value, "a list of names", error=ResultError)
    return check_names(name, given) if given else ()


def _check_points(sequences: Any) -> None:
    """Refuse points that do not rise."""
    check_table("sequences", sequences, (None,), whole=True)
    if not len(sequences) or bool((sequences.diff() <= 0).any()) or sequences[0] < 0:
        refuse(
            "sequences", sequences.tolist(), "whole numbers of at least 0, ascending", ResultError
        )


def _check_curves(result: Any, runs: tuple[int, ...], strengths: Any) -> None:
    """Refuse curves that do not fit the axes."""
    n_points = len(result.sequences)
    check_table("strengths", strengths, (*runs, n_points, None))
    heads = (*runs, n_points, strengths.shape[-1])
    sets = (*runs, len(result.sets), n_points)
    shapes: Mapping[str, tuple[int | None, ...]] = {
        "losses": (*runs, n_points),
        "accuracies": sets,
        "set_losses": sets,
        "previous_token": heads,
        "only_head": heads,
        "progress": (*runs, len(result.measures), n_points),
        "weights": (*runs, None),
    }
    for name, shape in shapes.items():
        check_table(name, getattr(result, name), shape)


def _part(provenance: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a result says of its task or its model's shape."""
    found = provenance.get(name)
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise ResultError(f"provenance says nothing of the {name}: expected a run of train()")
    return dict(found)
