"""What a study keeps beside the units of its grids: single tables, single answers, trainings."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from icl_locate.engine.choice import holds_hooks
from icl_locate.errors import ModelError, ResultError
from icl_locate.hooks.holding import is_held
from icl_locate.metrics import Answers, Readout
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.sealed import damaged
from icl_locate.records.store import Entry
from icl_locate.records.units import read_unit, write_unit
from icl_locate.studies.answers import pack, unpack
from icl_locate.studies.machine import describe_run
from icl_locate.studies.naming import (
    check_named,
    describe_computing,
    name_items,
    name_of,
)
from icl_locate.studies.place import place_now
from icl_locate.studies.recipe import describe_value

_LIBRARIES = ("accelerate", "icl_locate", "torch", "transformer_lens", "transformers")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """A unit of one cell in the store that is in use, or nothing where there is none.

    Attributes:
        entry: its file.
        said: what determines it.
    """

    entry: Entry | None
    said: Mapping[str, Any]

    @classmethod
    def of(
        cls, context: Mapping[str, Any], cell: Mapping[str, Any], items: Sequence[str]
    ) -> "Slot":
        """The slot of what is determined by these.

        Args:
            context, cell: as JSON holds them.
            items: names of the items, in their order.
        """
        place, said = place_now(), {"context": context, "cell": cell}
        if place.store is None:
            return cls(None, said)
        entry = Entry.of(place.store, name_of(context), [name_of(cell)], items)
        place.take([entry.label])
        return cls(entry, said)

    def find(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What is kept there, if it is there and whole."""
        if self.entry is None or not self.entry.path.is_file():
            return None
        try:
            there, tensors, rest = read_unit(self.entry.path)
            if (there.cells, there.items) != (self.entry.cells, self.entry.items):
                damaged(self.entry.path, "it answers something else than its name says")
        except ResultError as error:
            _log.warning("what it held is computed again: %s", error)
            return None
        return tensors, rest

    def keep(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Keep it.

        Raises:
            ResultError: if it cannot be written.
        """
        if self.entry is not None:
            write_unit(self.entry, tensors, {**rest, **self.said, **describe_run()})


def find_answers(slot: Slot, readout: Readout, n_items: int) -> Answers | None:
    """The answers that a slot holds, if it does."""
    found = slot.find()
    if found is None or slot.entry is None:
        return None
    try:
        (answers,) = unpack(readout, *found, (1, n_items), slot.entry.path)
    except ResultError as error:
        _log.warning("what it held is computed again: %s", error)
        return None
    return answers


def keep_answers(slot: Slot, readout: Readout, answers: Answers) -> None:
    """Keep answers in a slot.

    Raises:
        ResultError: if they cannot be written.
    """
    slot.keep(*pack(readout, [answers]))


def keep_tables(
    model: Model,
    prompts: Sequence[Prompts],
    said: Mapping[str, Any],
    compute: Callable[[], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Tensors that a study measures on some prompts: kept, or computed.

    Args:
        said: what determines them beside weights and prompts; values as `describe_value` takes.

    Raises:
        ModelError: if the model holds hooks.
        TaskError: if a value does not say what it is.
    """
    if place_now().store is None:
        return compute()
    check_bare(model)
    cell = describe_value(said)
    check_named("what is measured", cell)
    # What is said may name positions, which are those of the padded prompts.
    cell["prompts"] = [list(form.tokens.shape) for one in prompts for form in one.forms]
    names = [name for one in prompts for name in name_items(one)]
    context = {**describe_computing(model), "engine": "tables"}
    slot = Slot.of(context, cell, [name_of([i, name]) for i, name in enumerate(names)])
    found = slot.find()
    if found is not None:
        return found[0]
    tables = compute()
    slot.keep(tables, {})
    return tables


def training_file(identity: Mapping[str, Any]) -> Path | None:
    """Where the store keeps the state of a training; ``None`` without a store."""
    store = place_now().store
    return None if store is None else store.training(name_of(describe_value(identity)))


def check_bare(model: Model) -> None:
    """Refuse a model that is not what its weights say.

    Raises:
        ModelError: if hooks, or an autocast, change what it computes.
    """
    device = next(model.original_model.parameters()).device.type
    if torch.is_autocast_enabled(device):
        raise ModelError(
            "torch.autocast is open around this call, which the names of its answers do not tell: "
            "load the model with dtype=..., or call without store and executor"
        )
    if holds_hooks(model) or is_held(model) or _holds_torch_hooks(model):
        raise ModelError(
            "the model holds hooks, or a context such as icl_locate.intervene is open around it, "
            "which the names of its answers do not tell: leave it, give alongside=..., or call "
            "without store and executor"
        )


def _holds_torch_hooks(model: Model) -> bool:
    """Whether a module holds hooks of torch's kind, or a forward, that no library put there."""
    modules = (one for one in model.original_model.modules() if not isinstance(one, HookPoint))
    return any(
        str(getattr(_inner(hook), "__module__", "")).partition(".")[0] not in _LIBRARIES
        for module in modules
        for hook in chain(*(hooks.values() for hooks in _hooks_of(module)))
    )


def _inner(hook: Any) -> Any:
    """The function of a hook that was given some of its arguments."""
    return _inner(hook.func) if isinstance(hook, partial) else hook


def _hooks_of(module: nn.Module) -> tuple[Mapping[Any, Any], ...]:
    own = {name: value for name, value in vars(module).items() if name == "forward"}
    return module._forward_hooks, module._forward_pre_hooks, own
