"""Devices in play: tensors that say they lie on one of several devices, and lie on the CPU.

What real ones refuse is refused: an operation on tensors of two devices. A number alone, or indices
on the CPU, go with any, as they do in torch. So a machine without a GPU shows where a model on two
of them would fail; what it cannot show is memory, speed, and how a GPU rounds.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

KIND = "spare"
"""What kind of device they are."""

_INDEXED = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}
_ACROSS = {torch.ops.aten.copy_, torch.ops.aten._to_copy}
_SETUP = "_setup_privateuseone_for_python_backend"

CAN_PLAY = hasattr(backend_registration, _SETUP)
"""Whether this version of torch lets Python have devices of its own."""


class Placed(torch.Tensor):
    """A tensor of the CPU that says it lies on another device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held, device):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=device,
        )  # fmt: skip

    def __init__(self, held, device):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def tolist(self):
        return self.held.tolist()

    def untyped_storage(self):
        return self.held.untyped_storage()


class _Operations(TorchDispatchMode):
    """Has operations put on such a device what is made there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """The same of two functions that make tensors where no operation is seen."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        place = kwargs.pop("device", None) if function in (torch.tensor, torch.as_tensor) else None
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            tensor, index, *value = args
            parts = index if isinstance(index, tuple) else (index,)
            parts = tuple(torch.tensor(one) if isinstance(one, list) else one for one in parts)
            args = (tensor, parts, *value)
        found = function(*args, **kwargs)
        return found if place is None else found.to(place)


@contextmanager
def in_play() -> Iterator[None]:
    """Devices spare:0, spare:1, ... for all that runs inside; once a process, which is theirs."""
    getattr(backend_registration, _SETUP)(KIND)
    with _Functions(), _Operations():
        yield


def _run(function, args, kwargs):
    """Do it on the CPU, if all of it lies on one device."""
    packet, leaves = function.overloadpacket, tree_leaves((args, kwargs))
    tensors = [one for one in leaves if isinstance(one, torch.Tensor)]
    if kwargs.get("device") is not None:
        place = torch.device(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu") if place.type == KIND else place}
    elif packet in _ACROSS:
        place = args[0].device
    else:
        place = _place_of(function, tensors, args)
    found = function(*tree_map(_held, args), **tree_map(_held, kwargs))
    if place.type != KIND:
        return found
    if packet.__name__.endswith("_") and not packet.__name__.startswith("_"):
        return args[0]  # changed in its place
    return tree_map(lambda one: Placed(one, place) if isinstance(one, torch.Tensor) else one, found)


def _place_of(function, tensors, args):
    """The one device that an operation's tensors lie on."""
    indexed = function.overloadpacket in _INDEXED
    places = {
        one.device
        for one in tensors
        if one.device.type != "cpu" or (one is args[0] if indexed else one.ndim)
    }
    if len(places) > 1:
        raise RuntimeError(f"{function} got tensors on {sorted(map(str, places))}")
    return places.pop() if places else torch.device("cpu")


def _held(value):
    return value.held if isinstance(value, Placed) else value
