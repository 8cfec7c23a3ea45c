"""What of a model's files is trusted: configurations and safetensors; no pickle, no code.

Weights in pickle run what they hold when they are loaded by a careless program, and so does a
model's own code. Neither is ever loaded here.
"""

import json
from pathlib import Path

from icl_locate.errors import ModelError

NO_CODE = {"trust_remote_code": False}
"""For every call that reads a model's or tokenizer's files: said, lest a default change."""

_WEIGHTS = ("model.safetensors.index.json", "model.safetensors")


def check_weights(name: str, revision: str | None = None) -> None:
    """Refuse a model, of a local directory or the Hub, whose weights are no safetensors.

    What is not there at all passes: whoever loads it says so.

    Raises:
        ModelError: naming the model, and how to convert it.
    """
    directory = Path(name)
    if directory.is_dir():
        safe = _check_directory(directory)
    else:
        known = _on_hub(name, "config.json", revision)
        safe = not known or any(_on_hub(name, file, revision) for file in _WEIGHTS)
    if not safe:
        raise ModelError(
            f"the model {name!r} holds no safetensors (model.safetensors): weights in pickle, such "
            "as pytorch_model.bin, can hold programs and are not loaded. If you trust them, "
            f"convert them: transformers.AutoModelForCausalLM.from_pretrained({name!r})"
            ".save_pretrained(DIRECTORY), and the same with AutoTokenizer; then give DIRECTORY"
        )


def _check_directory(directory: Path) -> bool:
    """Whether its weights are safetensors, or it has none at all."""
    if (directory / "adapter_config.json").exists():
        raise ModelError(
            f"{directory} holds an adapter, which names another model's weights: merge it into "
            "that model (merge_and_unload of peft) and save it, or give the model's own directory"
        )
    index, whole = (directory / file for file in _WEIGHTS)
    if index.exists() and not whole.exists():
        return _all_safe(index)
    return whole.exists() or not any(directory.glob("*.bin"))


def _all_safe(index: Path) -> bool:
    """Whether all files that an index names are safetensors."""
    try:
        files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is no index of weights: expected a weight_map") from error
    return all(str(file).endswith(".safetensors") for file in files)


def _on_hub(name: str, file: str, revision: str | None) -> bool:
    """Whether the Hub, or its local cache, has a file of a model; it is kept for the loading."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            name,
            file,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # no such model, or a name that cannot be one
        return False
    return found is not None


def says_code(error: BaseException) -> bool:
    """Whether an error of transformers says that a model brings code of its own."""
    return "trust_remote_code" in str(error)
