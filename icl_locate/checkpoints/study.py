"""Measure the checkpoints of a training one by one, keeping each result as it is made."""

import gc
import inspect
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from icl_locate.checkpoints.folder import StepFolder, check_file_name
from icl_locate.checkpoints.places import Checkpoint, Place, find_checkpoints
from icl_locate.checkpoints.result import OverCheckpoints
from icl_locate.checkpoints.values import as_values
from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import CheckpointError, ResultError
from icl_locate.models.bridge import Model
from icl_locate.models.loading import resolve_device, resolve_dtype
from icl_locate.records.files import as_path, check_output, describe
from icl_locate.records.saved import Saved
from icl_locate.studies.recipe import describe_value, digest

Measure = Callable[[Model], Any]


@checked(ResultError, measure=anything, models=anything)
def over_checkpoints(
    measure: Measure | Mapping[str, Measure],
    models: str | Path | Sequence[Place] | Mapping[int, Place],
    *,
    steps: Sequence[int] | None = None,
    output: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    progress: bool = False,
) -> OverCheckpoints:
    """Measure each checkpoint of a training: one is loaded at a time, and freed before the next.

    A checkpoint that fails does not stop those behind it, unless it is the first of all; the error
    names it at the end, and has what the others gave.

    Args:
        measure: a function of a model, such as `icl_locate.induction.head_scores`, or
            ``functools.partial(icl_locate.sweep, task=task)``; or several by name. It gives a
            result that can be saved, a number, a tensor, or numbers and tensors by name.
        models: a directory whose sub-directories are checkpoints ("step1000", "checkpoint-500"); a
            name on the Hub whose training TransformerLens knows, with ``steps``; or a list of
            directories, NAME@REVISION of the Hub, models, and functions without arguments that
            load one; or such a list as a mapping by step.
        steps: which of the checkpoints, of a directory or a name; of a list, the step of each,
            where names do not tell it.
        output: a directory for the results, each written as it is made. What is there already is
            not measured again: a function is told by its name, its code and what `partial` gave it.
            ``None`` writes nothing.
        device, dtype: as `load_model` takes them.
        progress: whether to show a progress bar over the checkpoints.

    Raises:
        ResultError, ModelError: before anything is loaded, if a checkpoint is not there, its step
            is not known, or ``output`` holds what another measure, or other weights, gave.
        CheckpointError: if checkpoints failed.
    """
    measures = _by_name(measure)
    place, floats = resolve_device(device), resolve_dtype(dtype)
    checkpoints = find_checkpoints(models, steps)
    told = {name: _told(one) for name, one in measures.items()}
    if output is not None:
        check_output(output)
    runs = [_Run(one, measures, told, _folder(one, output)) for one in checkpoints]
    missing = {run.checkpoint.step: run.missing() for run in runs}
    failures: dict[int, str] = {}
    note = ""
    for run in tqdm(runs, unit="checkpoint", disable=not progress):
        if not missing[run.checkpoint.step]:
            continue
        try:
            run.go(missing[run.checkpoint.step], place, floats)
        except Exception as error:  # whatever a model or somebody's measure raises
            named = f"{run.checkpoint.label} (step {run.checkpoint.step})"
            said = f"{type(error).__name__}: {describe(error)}"
            failures[run.checkpoint.step] = f"{named} failed: {said}"
            note = note or "".join(traceback.format_exception(error))
            if not any(other.found for other in runs):
                break
        gc.collect()  # a bridge and its model hold each other
    return _result(runs, failures, output, note)


@dataclass
class _Run:
    """The measures of one checkpoint, and what they gave."""

    checkpoint: Checkpoint
    measures: Mapping[str, Measure]
    told: Mapping[str, str]
    folder: StepFolder | None

    def __post_init__(self) -> None:
        self.found: dict[str, Saved] = {}

    def missing(self) -> list[str]:
        """The measures that are still to be taken; the others' results are read."""
        if self.folder is None:
            return list(self.measures)
        self.folder.read()
        there = [name for name in self.measures if self.folder.has(name, self.told[name])]
        self.found = {name: self.folder.load(name) for name in there}
        return [name for name in self.measures if name not in there]

    def go(self, names: Sequence[str], device: torch.device, dtype: torch.dtype) -> None:
        """Load the model and measure it."""
        model = self.checkpoint.load(device, dtype)
        for name in names:
            result = _as_result(name, self.measures[name](model), model)
            if self.folder is not None:
                self.folder.save(name, result, self.told[name])
            self.found[name] = result


def _by_name(measure: Any) -> dict[str, Measure]:
    """The measures by their names."""
    given = measure if isinstance(measure, Mapping) else {_name_of(measure): measure}
    for name, one in given.items():
        if not callable(one) or isinstance(one, type) or not isinstance(name, str):
            refuse("measure", measure, "a function of a model, or several by name", ResultError)
        check_file_name(name)
    if not given:
        refuse("measure", measure, "at least one function of a model", ResultError)
    return dict(given)


def _name_of(measure: Any) -> str:
    """What a measure that came without a name is called."""
    function = measure.func if isinstance(measure, partial) else measure
    name = str(getattr(function, "__name__", "measure"))
    return name if name.isidentifier() else "measure"


def _told(measure: Measure) -> str:
    """What tells a measure from others: names, code, given arguments; not what it refers to."""
    return digest([json.dumps(_parts_of(measure), sort_keys=True)])


def _parts_of(measure: Any) -> Any:
    if isinstance(measure, partial):
        given = describe_value([measure.args, measure.keywords])
        return [_parts_of(measure.func), given]
    said = describe_value(inspect.unwrap(measure))
    own = ("function", "kind", "sha256", "defaults")
    return {key: said[key] for key in own if key in said}


def _folder(checkpoint: Checkpoint, output: str | Path | None) -> StepFolder | None:
    if output is None:
        return None
    home = as_path(output, "output")
    return StepFolder(home, checkpoint.step, checkpoint.label, checkpoint.files)


def _as_result(name: str, value: Any, model: Model) -> Saved:
    """What a measure gave, as a result with files.

    Raises:
        ResultError: if it is none of what can be kept.
    """
    found = value if isinstance(value, Saved) else as_values(value, model)
    if found is None:
        refuse(
            f"what the measure {name!r} gave", value,
            "a result with save(), a number, a tensor, or numbers and tensors by name", ResultError,
            "of a sweep give the sweep itself: OverCheckpoints.locate locates in it",
        )  # fmt: skip
    return found


def _result(
    runs: Sequence[_Run], failures: Mapping[int, str], output: str | Path | None, note: str
) -> OverCheckpoints:
    """What was found.

    Raises:
        CheckpointError: if checkpoints failed.
    """
    whole = [run for run in runs if len(run.found) == len(run.measures)]
    result = None
    if whole:
        result = OverCheckpoints(
            tuple(run.checkpoint.step for run in whole),
            tuple(run.checkpoint.label for run in whole),
            {name: tuple(run.found[name] for run in whole) for name in whole[0].measures},
        )
    if result is not None and not failures:
        return result
    kept = "is the error's .found" if output is None else f"is in {output}: run again to go on"
    others = f"; what {len(whole)} others gave {kept}" if whole else ""
    error = CheckpointError(f"{'; '.join(failures.values())}{others}", result)
    error.add_note(note)
    raise error
