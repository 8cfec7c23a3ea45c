"""What a worker in another process loads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from icl_locate.errors import ModelError
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import fingerprint
from icl_locate.models.identity import describe_config, describe_words
from icl_locate.models.loading import load_model


@dataclass(frozen=True)
class ModelLoader:
    """Loads the same model as another process has.

    Attributes:
        load: gives it.
        fingerprint: of its weights.
        computes: what else its answers depend on: config, tokenizer, tokens that end a text.
    """

    load: Callable[[], Model]
    fingerprint: str
    computes: Mapping[str, Any]

    @classmethod
    def of(cls, model: Model, load: Callable[[], Model] | None = None) -> "ModelLoader":
        """For this process's model.

        Args:
            load: ``None`` loads it by its name, in its dtype and of its revision.
        """
        if load is None:
            weights = next(model.original_model.parameters())
            name = str(getattr(model.cfg, "model_name", ""))
            load = partial(
                load_model,
                str(Path(name).absolute()) if Path(name).is_dir() else name,
                dtype=str(weights.dtype).removeprefix("torch."),
                revision=getattr(model.original_model.config, "_commit_hash", None),
            )
        return cls(load, fingerprint(model), _computes(model))

    def __call__(self) -> Model:
        """Load it.

        Raises:
            ModelError: if its weights are others.
        """
        model = self.load()
        if fingerprint(model) != self.fingerprint:
            raise ModelError(
                "its weights are not those of the process that asked (edited there, another dtype, "
                "or another revision): save the model and load both from there, or give "
                "RayExecutor(load=...), a function that makes the same model"
            )
        found = _computes(model)
        differ = [name for name, said in self.computes.items() if found[name] != said]
        if differ:
            raise ModelError(
                f"it differs in {' and '.join(differ)} from the one of the process that asked: "
                "give RayExecutor(load=...), a function that makes the same model"
            )
        return model


def _computes(model: Model) -> dict[str, Any]:
    return {
        "config": describe_config(model.original_model),
        "tokenizer": describe_words(model.original_model, model.tokenizer),
    }
