"""Greedy generation, under a mask or with the context dropped."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from transformers.cache_utils import DynamicCache

from icl_locate.checks.arguments import check_count
from icl_locate.checks.signatures import checked
from icl_locate.engine import decoding
from icl_locate.engine.decoding import OnText
from icl_locate.engine.dropping import drop_context
from icl_locate.errors import MaskError, PromptError
from icl_locate.interventions.base import Intervention
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts


@checked(PromptError)
def generate(
    model: Model,
    prompts: Prompts,
    mask: Intervention | None = None,
    max_new_tokens: int = 50,
    stop: str | Sequence[str] | None = None,
    *,
    drop_context_from: int | None = None,
    batch_size: int = 32,
    on_text: OnText | None = None,
) -> list[str]:
    """Generate an answer to each prompt greedily, the mask holding at every step.

    With ``drop_context_from=r`` instructions and examples are dropped from layer ``r`` on, neither
    computed nor kept in the cache there: the answers of a mask that hides them from ``r`` on, at
    less cost (`drop_context`).

    Args:
        mask: a mask, or any intervention or composition of them (`intervene`).
        stop: strings that end an answer and are cut off; ``None`` means the template's.
        drop_context_from: the layer from which the context is dropped; ``None`` drops nothing.
        batch_size: prompts that run at once.
        on_text: told each prompt's number and the next piece of its answer as soon as it is
            settled; the pieces of a prompt make up its answer (unless the model writes bytes that
            are no text, whose decoding later ones change).

    Returns:
        The answers' texts, without surrounding white space.

    Raises:
        PromptError: if a prompt and its new tokens exceed the model's context.
        MaskError: if a mask is given and context is to be dropped, too.
        ModelError: if context cannot be dropped exactly on this model.
        NumericalError: if the model gives NaN.
    """
    if drop_context_from is None:
        return decoding.generate(
            model, prompts, mask, max_new_tokens, stop, batch_size=batch_size, on_text=on_text
        )
    check_count(
        "drop_context_from", drop_context_from, least=0, most=model.cfg.n_layers, error=MaskError
    )
    if mask is not None:
        raise MaskError("give either a mask or drop_context_from, not both")
    start = drop_context_from

    def dropped(batch: Prompts, acting: object) -> AbstractContextManager[object]:  # noqa: ARG001
        return drop_context(model, batch, start)

    return decoding.decode(
        model, prompts, dropped, max_new_tokens, stop, batch_size, on_text, cache=DynamicCache
    )
