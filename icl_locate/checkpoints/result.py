"""What measures found over the checkpoints of a training, a result a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checkpoints.folder import StepFolder, check_file_name, step_folders
from icl_locate.checks.arguments import check_choice, check_counts, check_items, refuse
from icl_locate.checks.contents import check_names, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.location import Location, locate
from icl_locate.masking.result import SweepResult
from icl_locate.records.files import as_path
from icl_locate.records.saved import Saved

if TYPE_CHECKING:
    import pandas as pd

_ALIKE = ("task", "signature", "n_shots", "n_queries", "seeds", "scope", "max_new_tokens")
"""Of results' recipes: what must be the same at every step, where it is there."""


@short_repr("measures", "steps", "labels")
@dataclass(frozen=True)
class OverCheckpoints:
    """The results of one measure or several, over the steps of a training.

    Attributes:
        steps: of the training, ascending.
        labels: where each step's model came from.
        results: by the measure's name, its result at each step.
    """

    steps: tuple[int, ...]
    labels: tuple[str, ...]
    results: Mapping[str, Sequence[Saved]]

    def __post_init__(self) -> None:
        steps = check_counts("steps", self.steps, least=0, ascending=True, error=ResultError)
        labels = check_names("labels", self.labels)
        given: Any = self.results
        if not isinstance(given, Mapping) or not given:
            refuse("results", given, "by a measure's name, a result a step", ResultError)
        results = {name: _alike(name, found, steps) for name, found in self.results.items()}
        if len(labels) != len(steps):
            refuse("labels", labels, f"one for each of the {len(steps)} steps", ResultError)
        settle(self, steps=steps, labels=labels, results=results)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what was measured."""
        return tuple(self.results)

    @checked(ResultError)
    def of(self, measure: str | None = None) -> dict[int, Any]:
        """By step, what a measure gave.

        Args:
            measure: its name; ``None`` means the only one.

        Raises:
            ResultError: if there is none of that name, or several and none was named.
        """
        names = ", ".join(map(repr, self.measures))
        if measure is None and len(self.measures) > 1:
            refuse("measure", measure, f"one of {names}", ResultError)
        name = self.measures[0] if measure is None else measure
        check_choice("measure", name, self.measures, error=ResultError)
        return dict(zip(self.steps, self.results[name], strict=True))

    @checked(ResultError)
    def stack(self, attribute: str, measure: str | None = None) -> Float[Tensor, "step *axes"]:
        """A tensor that every result has, over the steps, such as "scores".

        Args:
            attribute: its name; of `Values`, that of a number or tensor.
            measure: as `of` says.

        Raises:
            ResultError: if a result has no such tensor, or its shape changes over the steps.
        """
        found: list[Tensor] = []
        for step, result in self.of(measure).items():
            table = _tensor_of(result, attribute)
            if table is None or (found and table.shape != found[0].shape):
                kind = f"a tensor of the {type(result).__name__} at step {step}"
                refuse("attribute", attribute, f"{kind}, of one shape at every step", ResultError)
            found.append(table)
        return torch.stack(found)

    @checked(ResultError)
    def locate(self, measure: str | None = None, **options: Any) -> dict[int, list[Location]]:
        """By step, what `icl_locate.locate` finds in a sweep: a location for each condition.

        Args:
            measure: as `of` says; ``None`` means the only one that gave sweeps.
            options: as `icl_locate.locate` takes them.

        Raises:
            ResultError: if it gave no sweeps.
        """
        sweeps = [n for n in self.measures if isinstance(self.results[n][0], SweepResult)]
        name = sweeps[0] if measure is None and len(sweeps) == 1 else measure
        found = self.of(name) if sweeps else {}
        if not sweeps or not isinstance(found[self.steps[0]], SweepResult):
            expected = f"one that gave sweeps: {', '.join(sweeps) or 'there is none'}"
            refuse("measure", measure, expected, ResultError)
        return {step: locate(result, **options) for step, result in found.items()}

    @checked(ResultError)
    def to_dataframe(self, measure: str | None = None, **options: Any) -> "pd.DataFrame":
        """The tables of all steps' results, one below the other, with a column ``step`` before.

        Args:
            measure: as `of` says.
            options: as the result's own ``to_dataframe`` takes them, such as ``rows="cell"`` of
                sweeps.

        Raises:
            ResultError: if such results have no table.
        """
        import pandas as pd

        tables = []
        for step, result in self.of(measure).items():
            if not hasattr(result, "to_dataframe"):
                kind = type(result).__name__
                refuse("measure", measure, f"one that gave tables: a {kind} has none", ResultError)
            table = result.to_dataframe(**options)
            table.insert(0, "step", step)
            tables.append(table)
        found: pd.DataFrame = pd.concat(tables, ignore_index=True)
        return found

    def save(self, path: str | Path) -> Path:
        """Write a directory, with a directory a step in it and in that a file a measure.

        Raises:
            ResultError: if it cannot be written.
        """
        home = as_path(path)
        for i, (step, label) in enumerate(zip(self.steps, self.labels, strict=True)):
            folder = StepFolder(home, step, label)
            for name, found in self.results.items():
                folder.save(name, found[i])
        return home

    @classmethod
    def load(cls, path: str | Path) -> "OverCheckpoints":
        """Read what `save` or `over_checkpoints` wrote: the steps at which all was measured.

        Raises:
            ResultError: if there is none, or one is damaged.
        """
        folders = step_folders(path)
        names = list(dict.fromkeys(name for folder in folders for name in folder.kinds))
        whole = [folder for folder in folders if {*folder.kinds} == {*names}]
        if not whole:
            raise ResultError(f"{path} holds no step at which all was measured: run it again")
        return cls(
            tuple(folder.step for folder in whole),
            tuple(folder.label for folder in whole),
            {name: tuple(folder.load(name) for folder in whole) for name in names},
        )


def _alike(name: str, found: Any, steps: Sequence[int]) -> tuple[Saved, ...]:
    """Results of one measure, if they are of one kind and were asked alike."""
    check_file_name(name)
    expected = f"a list of results with save(), one for each of the {len(steps)} steps"
    results = check_items(f"results[{name!r}]", found, expected, error=ResultError)
    if len(results) != len(steps) or not all(isinstance(one, Saved) for one in results):
        refuse(f"results[{name!r}]", found, expected, ResultError)
    first = results[0]
    for step, result in zip(steps, results, strict=True):
        recipes = [getattr(one, "provenance", {}) for one in (first, result)]
        differ = [key for key in _ALIKE if recipes[0].get(key) != recipes[1].get(key)]
        if type(result) is not type(first) or differ:
            what = f"other {', '.join(differ)}" if differ else f"a {type(result).__name__}"
            raise ResultError(
                f"results[{name!r}] are not alike: that of step {step} has {what} than that of "
                f"step {steps[0]}; measure both again in the same way"
            )
    return tuple(results)


def _tensor_of(result: Any, attribute: str) -> Tensor | None:
    """A tensor that a result holds or computes."""
    names = getattr(result, "names", ())
    if attribute in names and hasattr(type(result), "__getitem__"):
        found = result[attribute]
    else:
        found = None if attribute.startswith("_") else getattr(result, attribute, None)
    return found if isinstance(found, Tensor) and found.is_floating_point() else None
