"""Memory of the device that a model lies on: what is free, and what says that it ran out."""

import psutil
import torch

_SAYS_SO = (
    "out of memory",  # CUDA's own, and MPS's
    "can't allocate memory",
    "not enough memory",
    "_STATUS_ALLOC_FAILED",
    "cublasCreate",  # a full GPU has no room for the handle of the first product, either
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, torch's own or what a library of CUDA's says.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(some in str(error) for some in _SAYS_SO)


def free_bytes(device: torch.device) -> int:
    """What a device has left: free memory, and what torch holds of a GPU's without using it."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held


def give_back() -> None:
    """Give a GPU's memory that torch holds without using it to whoever else asks for it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
