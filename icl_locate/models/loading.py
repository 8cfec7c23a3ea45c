"""Models: the embedded one, a Hub name, a local directory, or a bridge that is already there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from icl_locate.checks.arguments import check_count, check_path, show
from icl_locate.checks.signatures import KINDS, anything, checked
from icl_locate.errors import ModelError
from icl_locate.models.bridge import Model
from icl_locate.models.names import EMBEDDED as EMBEDDED
from icl_locate.models.names import commit_of, find_model
from icl_locate.models.names import embedded_directory as embedded_directory
from icl_locate.models.spread import check_device_map, spreading_error
from icl_locate.models.trust import NO_CODE, check_weights, says_code


@checked(
    ModelError,
    model=anything,
    device_map=anything,
    checkpoint_index=lambda name, value, error: (
        None if value is None else check_count(name, value, least=-(10**9), error=error)
    ),
)
def load_model(
    model: str | Path | Model | None = None,
    *,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, str | int | torch.device] | None = None,
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    checkpoint_index: int | None = None,
    checkpoint_value: int | None = None,
) -> Model:
    """Load a model as a TransformerBridge with eager attention, in evaluation mode.

    Args:
        model: ``None`` or "embedded" for the model that comes with the package; a name on the
            Hugging Face Hub; a local directory; or a TransformerBridge, which is returned as it is,
            in evaluation mode. Weights are safetensors; a model's own code is never run.
        device: where to put it; ``None`` means a GPU if there is one.
        device_map: for a model that takes several GPUs, in ``device``'s place: "auto" or "balanced"
            (accelerate spreads it), or a mapping of modules' names to devices. Every intervention
            and readout runs on such a model by the hooks engine; the shared engine, dropped
            context, and weights offloaded to a disk are refused.
        dtype: of the weights, as a torch dtype or its name.
        revision: of a model on the Hub: a branch, a tag such as "step1000", or a commit, of
            weights, configuration and tokenizer alike. The commit stands in every recipe.
        checkpoint_index, checkpoint_value: a checkpoint of a family whose training TransformerLens
            knows (EleutherAI/pythia, stanford-crfm), in a revision's place: its place in the list,
            from the end if below 0; or its label, the training step.

    Raises:
        ModelError: if there is no such model, revision or checkpoint, or TransformerLens cannot
            load it.
    """
    labels = {"checkpoint_index": checkpoint_index, "checkpoint_value": checkpoint_value}
    if isinstance(model, TransformerBridge):
        _refuse_revision("there already", revision=revision, device_map=device_map, **labels)
        model.eval()
        return cast(Model, model)
    if model is not None and not isinstance(model, (str, Path)):
        raise ModelError(_not_a_bridge(model))
    name = EMBEDDED if model is None else str(check_path("model", model, error=ModelError))
    if {*labels.values()} != {None}:
        revision = checkpoint_revision(name, revision=revision, **labels)
    found = find_model(name, revision)
    how: dict[str, Any] = {"dtype": resolve_dtype(dtype), "revision": revision}
    if device_map is None:
        how["device"] = resolve_device(device)
    else:
        how["device_map"] = check_device_map(device_map, device)
    check_weights(found, revision)
    bridge = _boot(name, found, how)
    keep_commit(bridge.original_model, found, revision)
    bridge.eval()
    return cast(Model, bridge)


def _boot(name: str, found: str, how: dict[str, Any]) -> Any:
    """The bridge of a model that was found, or what to tell its user."""
    try:
        with quiet_loading() if Path(found).is_dir() else nullcontext():
            return TransformerBridge.boot_transformers(found, **how, **NO_CODE)
    except Exception as error:  # a damaged directory makes its readers raise anything
        if "device_map" in how and not says_code(error):
            raise spreading_error(name, how["device_map"], error) from error
        raise loading_error(name, error) from error


def keep_commit(model: Any, name: str, revision: str | None) -> None:
    """Have a Hugging Face model of a name on the Hub know its commit, for recipes to tell it.

    transformers kept it in this place until version 5.
    """
    commit = commit_of(name, revision)
    if commit is not None:
        model.config._commit_hash = commit


def _refuse_revision(why: str, **given: Any) -> None:
    """Refuse to choose a revision of what has none."""
    for name, value in given.items():
        if value is not None:
            raise ModelError(f"{name} is {show(value)}, but the model is {why}: leave it out")


def checkpoint_revision(
    name: str,
    *,
    checkpoint_index: int | None = None,
    checkpoint_value: int | None = None,
    revision: str | None = None,
) -> str:
    """The revision of a checkpoint, by TransformerLens's list of a family's training.

    Raises:
        ModelError: if TransformerLens has no list of the model's training, or no such checkpoint.
    """
    if Path(name).is_dir() or name == EMBEDDED:
        why = "a local directory, which is one checkpoint"
        _refuse_revision(why, checkpoint_index=checkpoint_index, checkpoint_value=checkpoint_value)
    named = {"checkpoint_index": checkpoint_index, "checkpoint_value": checkpoint_value}
    every = {**named, "revision": revision}
    given = {label: value for label, value in every.items() if value is not None}
    if len(given) != 1:
        raise ModelError(f"{' and '.join(given)} are given: expected one of them alone")
    ((label, value),) = given.items()
    try:  # TransformerLens keeps it to itself: only who asks for it depends on its being there
        from transformer_lens.model_bridge.sources.transformers import (
            _resolve_checkpoint_to_revision,
        )
    except ImportError as error:
        raise ModelError(
            f"{label} is {value}, but this version of TransformerLens has no lists of checkpoints: "
            "give the revision itself"
        ) from error
    try:
        return str(_resolve_checkpoint_to_revision(name, checkpoint_index, checkpoint_value))
    except ValueError as error:
        raise ModelError(f"{label} is {value}: {first_line(error)}") from error


def check_model(model: Any) -> Model:
    """A model that can be run: a TransformerBridge, every module of it in evaluation mode.

    Raises:
        ModelError: if it is something else, saying how to make a bridge of it; or if any module is
            in training mode, in which dropout would make every number random.
    """
    if not isinstance(model, TransformerBridge):
        raise ModelError(_not_a_bridge(model))
    if _is_training(model):
        raise ModelError(
            "the model is in training mode, or a part of it is, so that dropout would make its "
            "numbers random: call model.eval() first (transformers' Trainer leaves a model so)"
        )
    return cast(Model, model)


def _is_training(model: TransformerBridge) -> bool:
    """Whether any module is in training mode; the bridge's own flag says nothing of the others."""
    waiting: list[nn.Module] = [model, model.original_model]
    seen: set[int] = set()
    while waiting:
        module = waiting.pop()
        if module.training:
            return True
        inside = [part for part in module._modules.values() if part is not None]
        waiting += [part for part in inside if id(part) not in seen]
        seen.update(map(id, inside))
    return False


KINDS[TransformerBridge] = lambda name, value, error: check_model(value)  # noqa: ARG005


def _not_a_bridge(model: Any) -> str:
    """What to tell a user who gave something else in a model's place."""
    if model is None or isinstance(model, (str, Path)):
        name = "" if model is None else repr(str(model))
        return (
            f"model is {show(model)}: expected a TransformerBridge; icl_locate.load_model({name}) "
            "gives one"
        )
    kind = type(model).__name__
    if isinstance(model, PreTrainedModel):
        return (
            f"model is a {kind} of transformers: expected a TransformerBridge; wrap it: "
            "TransformerBridge.boot_transformers(NAME, hf_model=model, tokenizer=tokenizer).eval() "
            "(from transformer_lens.model_bridge; NAME is that of its configuration), or load it: "
            "icl_locate.load_model(NAME_OR_DIRECTORY)"
        )
    if hasattr(model, "run_with_hooks"):
        return (
            f"model is a {kind}: expected a TransformerBridge, TransformerLens's local model since "
            "version 4; icl_locate.load_model(NAME_OR_DIRECTORY) gives one"
        )
    return (
        f"model is a {kind}: expected a TransformerBridge; icl_locate.load_model() gives the "
        "embedded one, load_model(NAME_OR_DIRECTORY) any other"
    )


def loading_error(name: str, error: BaseException) -> ModelError:
    """What to tell a user whose model could not be loaded."""
    if says_code(error):
        return ModelError(
            f"the model {name!r} brings code of its own (auto_map in its files), which is never "
            "run here: if you trust its authors, load model and tokenizer yourself, and give "
            "TransformerBridge.boot_transformers(NAME, hf_model=model, tokenizer=tokenizer).eval()"
        )
    return ModelError(
        f"the model {name!r} could not be loaded: expected a directory with config.json, "
        "weights and tokenizer, or the name of a model that TransformerLens supports "
        f"({type(error).__name__}: {first_line(error)})"
    )


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device of a name; ``None`` means a GPU if there is one.

    Raises:
        ModelError: if there is no such device on this machine.
    """
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(
            f"device is {str(device)!r}: expected one of this machine, such as 'cpu' "
            f"({first_line(error)})"
        ) from error
    return found


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def resolve_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The torch dtype of a name such as "bfloat16".

    Raises:
        ModelError: if it names no floating-point dtype.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ModelError(f"dtype is {dtype!r}: expected float32, bfloat16 or float16")
    return found


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' progress bars out of a command's output, inside a ``with``."""
    from transformers.utils import logging as transformers_logging

    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
