"""A model over several devices: what a device map may say, and what to say where it fails."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from icl_locate.checks.arguments import show
from icl_locate.errors import ModelError

AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")
_OFFLOADED = {"disk", "meta"}
_EXPECTED = (
    f"one of {', '.join(map(repr, AUTOMATIC))}, or a mapping of modules' names to devices of this "
    "machine, such as {'model.layers.0': 0, ...}"
)


def check_device_map(device_map: Any, device: Any) -> str | dict[str, str | int]:
    """A device map that TransformerLens can take.

    Args:
        device: what was given beside it.

    Raises:
        ModelError: if it says something else, names what is no device of this machine or a place
            that weights are offloaded to, or accelerate is not installed, which spreads them.
    """
    if device is not None:
        raise ModelError(
            f"device is {show(device)} and device_map is {show(device_map)}: expected one of them"
        )
    if find_spec("accelerate") is None:
        raise ModelError(
            f"device_map is {show(device_map)}, which takes the package accelerate: install it "
            "(pip install accelerate), or give device alone"
        )
    if isinstance(device_map, str) and device_map in AUTOMATIC:
        return device_map
    if not isinstance(device_map, Mapping) or not device_map:
        raise ModelError(f"device_map is {show(device_map)}: expected {_EXPECTED}")
    places = {check_name(name): _check_place(name, device_map[name]) for name in device_map}
    kinds = {torch.device(place).type for place in places.values()}
    if len(kinds) > 1:
        raise ModelError(
            f"device_map names devices of several kinds ({', '.join(sorted(kinds))}): expected "
            "GPUs alone, or the CPU alone; weights that wait elsewhere are no weights here"
        )
    return places


def check_name(name: Any) -> str:
    """A module's name."""
    if not isinstance(name, str):
        raise ModelError(f"device_map has the key {show(name)}: expected {_EXPECTED}")
    return name


def _check_place(name: str, place: Any) -> str | int:
    """A device of this machine."""
    if isinstance(place, str) and place in _OFFLOADED:
        raise ModelError(
            f"device_map has {place!r} for {name!r}: weights that are offloaded cannot be read or "
            "masked here; expected devices that hold them, or a smaller dtype or model"
        )
    if isinstance(place, bool) or not isinstance(place, (str, int, torch.device)):
        raise ModelError(f"device_map has {show(place)} for {name!r}: expected {_EXPECTED}")
    try:
        found = torch.device(place)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(
            f"device_map has {show(place)} for {name!r}: expected a device of this machine "
            f"({str(error).splitlines()[0]})"
        ) from error
    return place if isinstance(place, int) else str(found)


def spreading_error(name: str, device_map: Any, error: BaseException) -> ModelError:
    """What to tell a user whose model could not be spread."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(
        f"the model {name!r} could not be loaded with device_map={show(device_map)}: expected a "
        "map of every module to a GPU, with tied weights on one, and room for all of them "
        f"({type(error).__name__}: {said})"
    )
