"""Greedy generation under a mask."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.engine.forward import Intervention, keep_logits, masked, require_numbers
from icl_locate.errors import PromptError
from icl_locate.tokens import Prompts, check_tokenizer


def generate(
    model: TransformerBridge,
    prompts: Prompts,
    mask: Intervention | None = None,
    max_new_tokens: int = 50,
    stop: str | Sequence[str] | None = None,
    *,
    batch_size: int = 32,
) -> list[str]:
    """Generate an answer to each prompt greedily, the mask holding at every step.

    Args:
        mask: a mask, or a `HeadAblation`.
        stop: strings that end an answer and are cut off; ``None`` means the template's.
        batch_size: prompts that run at once.

    Returns:
        The answers' texts, without surrounding white space.

    Raises:
        PromptError: if a prompt and its new tokens exceed the model's context.
        NumericalError: if the model gives NaN.
    """
    stops = resolve_stops(prompts, stop)
    check_room(model, prompts, max_new_tokens)
    answers: list[str] = []
    for batch in prompts.batches(batch_size):
        answers += _generate_batch(model, batch, mask, max_new_tokens, stops)
    return answers


@torch.no_grad()
def _generate_batch(
    model: TransformerBridge,
    prompts: Prompts,
    mask: Intervention | None,
    max_new_tokens: int,
    stops: Sequence[str],
) -> list[str]:
    device = model.cfg.device
    step = prompts.tokens.to(device)
    attention_mask = prompts.attention_mask.long().to(device)
    last_only, cache = keep_logits(model, 1), None
    answers = Answers(model, len(prompts), stops)
    with masked(model, prompts, mask):
        for _ in range(max_new_tokens):
            logits, cache = model(
                step,
                attention_mask=attention_mask,
                past_key_values=cache,
                use_cache=True,
                return_type="logits_and_cache",
                **last_only,
            )
            step = require_numbers(logits[:, -1]).argmax(dim=-1, keepdim=True)
            if answers.extend(step[:, 0]).all():
                break
            attention_mask = torch.nn.functional.pad(attention_mask, (0, 1), value=1)
    return answers.texts()


class Answers:
    """The answers of a batch while they grow, each ended by EOS or a stop string."""

    def __init__(self, model: TransformerBridge, n_answers: int, stops: Sequence[str]) -> None:
        self._tokenizer = check_tokenizer(model.tokenizer)
        self._eos = end_tokens(model)
        self._stops = tuple(stops)
        self._tokens: list[list[int]] = [[] for _ in range(n_answers)]
        self._done = [False] * n_answers

    def extend(
        self, tokens: Int[Tensor, "some"], rows: Sequence[int] | None = None
    ) -> Bool[Tensor, "batch"]:
        """Add one token to each unfinished answer, or to those in ``rows``.

        Returns:
            Which of all answers are finished now.
        """
        numbers = range(len(self._tokens)) if rows is None else rows
        for row, token in zip(numbers, tokens.tolist(), strict=True):
            if self._done[row]:
                continue
            self._done[row] = token in self._eos
            if not self._done[row]:
                self._tokens[row].append(token)
                self._done[row] = any(stop in self._decode(row) for stop in self._stops)
        return torch.tensor(self._done)

    def texts(self) -> list[str]:
        """The answers, cut at their first stop string, without surrounding white space."""
        return [
            cut_at_stop(self._decode(row), self._stops).strip() for row in range(len(self._tokens))
        ]

    def _decode(self, row: int) -> str:
        return str(self._tokenizer.decode(self._tokens[row], skip_special_tokens=True))


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the earliest of the stop strings.

    >>> cut_at_stop("le chat Q: the dog", ["Q:"])
    'le chat '
    """
    return text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]


def end_tokens(model: TransformerBridge) -> frozenset[int]:
    """The tokens that end a text, as the tokenizer and the generation config name them."""
    config = getattr(model.original_model, "generation_config", None)
    found: set[int] = set()
    for value in (
        getattr(config, "eos_token_id", None),
        check_tokenizer(model.tokenizer).eos_token_id,
    ):
        found |= set(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(found)


def resolve_stops(prompts: Prompts, stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The strings that end an answer: one, several, or (``None``) the template's.

    Raises:
        PromptError: if one of them is empty.
    """
    if stop is None:
        return prompts.template.stops
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stops:
        raise PromptError("a stop string is empty: it would end every answer at once")
    return stops


def check_room(model: TransformerBridge, prompts: Prompts, max_new_tokens: int) -> None:
    """Refuse prompts that leave no room for new tokens.

    Raises:
        PromptError: if there are none to generate, or a prompt and its new tokens exceed the
            model's context.
    """
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens is {max_new_tokens}: expected 1 or more")
    limit = getattr(model.cfg, "n_ctx", None)
    longest = int(prompts.attention_mask.sum(dim=1).max())
    if limit is not None and longest + max_new_tokens > limit:
        raise PromptError(
            f"a prompt of {longest} tokens with {max_new_tokens} new ones exceeds the model's "
            f"context of {limit}: use fewer shots, or lower max_new_tokens"
        )
