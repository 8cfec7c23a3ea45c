"""Where the checkpoints of a training are, and of which step each is: none is loaded yet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.checks.arguments import check_count, check_items, refuse, show
from icl_locate.errors import ModelError, ResultError
from icl_locate.models.bridge import Model
from icl_locate.models.loading import checkpoint_revision, load_model
from icl_locate.models.names import find_model
from icl_locate.models.steps import checkpoints_in, require_step, split_revision

Place = str | Path | Model | Callable[[], Model]
_PLACES = (
    "a directory of checkpoints, a name on the Hub with steps, or a list (or mapping by step) of "
    "directories, NAME@REVISION, models and functions that load one"
)


@dataclass(frozen=True)
class Checkpoint:
    """A model of one step, and how it is had.

    Attributes:
        step: of the training.
        label: where it comes from, as people read it.
        files: names, sizes and times of a directory's files, which tell whether it is still the
            same; ``None`` of what is no directory.
        place: what it is loaded from.
    """

    step: int
    label: str
    files: list[list[Any]] | None
    place: Place

    def load(self, device: str | torch.device | None, dtype: torch.dtype | str) -> Model:
        """The model itself.

        Raises:
            ModelError: if it cannot be loaded.
        """
        place = self.place
        if not isinstance(place, (str, Path)):
            return load_model(place if isinstance(place, TransformerBridge) else place())
        name, revision = split_revision(str(place))
        return load_model(name, device=device, dtype=dtype, revision=revision)


def find_checkpoints(models: Any, steps: Sequence[int] | None) -> tuple[Checkpoint, ...]:
    """The checkpoints that a user means, the first step first; arguments as `over_checkpoints`.

    Raises:
        ResultError, ModelError: if one is not there, or its step is not known or another's, too.
    """
    places = _by_step(models, steps)
    if not places:
        refuse("models", models, f"at least one: {_PLACES}", ResultError)
    return tuple(_checkpoint(step, places[step]) for step in sorted(places))


def _by_step(models: Any, steps: Sequence[int] | None) -> dict[int, Any]:
    """What each step's model is loaded from."""
    if isinstance(models, Mapping):
        if steps is not None:
            refuse("steps", steps, "None where models is a mapping, whose keys are the steps")
        return {
            check_count("a key of models", step, least=0, error=ResultError): place
            for step, place in models.items()
        }
    if isinstance(models, (str, Path)) and split_revision(str(models))[1] is None:
        return _of_one(str(models), steps)
    if isinstance(models, TransformerBridge):  # which is a function, too
        refuse("models", models, _PLACES, ResultError)
    single = isinstance(models, (str, Path)) or callable(models)
    places = [models] if single else check_items("models", models, _PLACES, error=ResultError)
    known = _told(places) if steps is None else list(steps)
    if len(known) != len(places):
        refuse("steps", steps, f"one for each of the {len(places)} models", ResultError)
    if len({*known}) < len(known):
        refuse("steps", known, "each once", ResultError)
    return dict(zip(known, places, strict=True))


def _of_one(name: str, steps: Sequence[int] | None) -> dict[int, Any]:
    """The checkpoints of a directory, or of a name on the Hub."""
    if Path(name).is_dir():
        there: dict[int, Any] = dict(checkpoints_in(Path(name)))
        missing = [step for step in steps or () if step not in there]
        if missing:
            refuse("steps", steps, f"some of {name}, which has {', '.join(map(str, there))}")
        return there if steps is None else {step: there[step] for step in steps}
    if steps is None:
        refuse(
            "models", name, "a directory of checkpoints (there is none), or steps, too",
            ResultError, f"or list them: ['{name}@step1000', ...]",
        )  # fmt: skip
    return {step: f"{name}@{checkpoint_revision(name, checkpoint_value=step)}" for step in steps}


def _told(places: Sequence[Any]) -> list[int]:
    """The steps that the places' names tell."""
    found = []
    for i, place in enumerate(places):
        if not isinstance(place, (str, Path)):
            refuse(
                f"models[{i}]", place, "a name that tells its step", ResultError,
                "say which steps they are of: steps=[...], or a mapping of steps to models",
            )  # fmt: skip
        name, revision = split_revision(str(place))
        found.append(require_step(revision or Path(name).name, f"models[{i}], {str(place)!r},"))
    return found


def _checkpoint(step: int, place: Any) -> Checkpoint:
    """A checkpoint, if it is there."""
    where = f"the model of step {step}"
    if isinstance(place, TransformerBridge):
        return Checkpoint(step, str(getattr(place.cfg, "model_name", "a model")), None, place)
    if isinstance(place, (str, Path)):
        name, revision = split_revision(str(place))
        try:
            found = Path(find_model(name, revision))
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from error
        files = _files(found) if found.is_dir() else None
        return Checkpoint(step, str(place), files, place)
    if not callable(place) or isinstance(place, type):
        refuse(where.replace("the model", "models: that"), place, _PLACES, ResultError)
    loader = place.func if isinstance(place, partial) else place
    return Checkpoint(step, str(getattr(loader, "__name__", show(place))), None, place)


def _files(directory: Path) -> list[list[Any]]:
    """What tells a directory's weights from others, without reading them."""
    held = sorted([directory / "config.json", *directory.glob("*.safetensors")])
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in held]
