"""What every run of a model under a mask shares."""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager

from jaxtyping import Float
from torch import Tensor

from icl_locate.errors import NumericalError
from icl_locate.hooks import hold, intervene
from icl_locate.hooks.padding import runs_of
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.states import require_batch
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts


def masked(
    model: Model, prompts: Prompts, mask: Intervention | None
) -> AbstractContextManager[object]:
    """The context of an intervention; if there is none, that of holding the model.

    Raises:
        ModelError: if the model is in training mode: dropout would make its answers random.
    """
    if mask is None:
        return hold(model, runs_of(prompts))
    return intervene(model, prompts, mask)


def cut(
    prompts: Prompts, mask: Intervention | None, size: int
) -> Iterator[tuple[Prompts, Intervention | None]]:
    """Consecutive slices of at most ``size`` prompts, and the intervention for each.

    Raises:
        MaskError: if the intervention has values for another number of prompts.
        PromptError: if ``size`` is less than 1.
    """
    if mask is not None:
        require_batch(mask, len(prompts))
    start = 0
    for batch in prompts.batches(size):
        items = range(start, start + len(batch))
        yield batch, None if mask is None else mask.take(items)
        start += len(batch)


def keep_logits(model: Model, n_last: int) -> dict[str, int]:
    """The argument that has a model unembed only its last positions, where it takes one."""
    parameters = inspect.signature(model.original_model.forward).parameters
    return {"logits_to_keep": n_last} if "logits_to_keep" in parameters else {}


def require_numbers(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the values if none is NaN.

    Raises:
        NumericalError: naming the first row that holds NaN.
    """
    bad = values.isnan()
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise NumericalError(
            f"the model gave NaN for prompt {row} of the batch: check its weights, or load it in "
            "float32 or bfloat16 (float16 overflows in many models)"
        )
    return values
