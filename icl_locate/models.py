"""Models: the embedded one, a Hub name, a local directory, or a bridge that is already there."""

import logging
from importlib.resources import files
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.errors import ModelError

EMBEDDED = "embedded"


def embedded_directory() -> Path:
    """Where the package keeps the embedded model: weights, tokenizer and card."""
    return Path(str(files("icl_locate.embedded") / "model"))


def load_model(
    model: str | Path | TransformerBridge | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
) -> TransformerBridge:
    """Load a model as a TransformerBridge with eager attention, in evaluation mode.

    Args:
        model: ``None`` or "embedded" for the model that comes with the package; a name on the
            Hugging Face Hub; a local directory; or a TransformerBridge, which is returned as it is.
        device: where to put it; ``None`` means a GPU if there is one.
        dtype: of the weights, as a torch dtype or its name.
        revision: of a model on the Hub.

    Raises:
        ModelError: if there is no such model, or TransformerLens cannot load it.
    """
    if isinstance(model, TransformerBridge):
        model.eval()
        return model
    name = str(model or EMBEDDED)
    path = embedded_directory() if name == EMBEDDED else Path(name)
    if name != EMBEDDED and (path.is_absolute() or name.startswith(".")) and not path.is_dir():
        raise ModelError(f"there is no model directory {name}: expected one with a config.json")
    try:
        bridge = TransformerBridge.boot_transformers(
            str(path) if path.is_dir() else name,
            device=torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")),
            dtype=resolve_dtype(dtype),
            revision=None if path.is_dir() else revision,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the model {name!r} could not be loaded: expected a directory with config.json, "
            "weights and tokenizer, or the name of a model that TransformerLens supports "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]})"
        ) from error
    bridge.eval()
    return bridge


def resolve_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The torch dtype of a name such as "bfloat16".

    Raises:
        ModelError: if it names no floating-point dtype.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ModelError(f"dtype is {dtype!r}: expected float32, bfloat16 or float16")
    return found


def quiet_loading() -> None:
    """Keep transformers' progress bars and load reports out of a command's output."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)
