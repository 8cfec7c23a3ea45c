"""Greedy generation under a mask."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.cache_utils import Cache

from icl_locate.checks.arguments import show
from icl_locate.engine.forward import cut, keep_logits, masked, require_numbers
from icl_locate.errors import PromptError
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import Metric
from icl_locate.metrics.traits import compares_targets
from icl_locate.models import identity
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.encoding import read_ids, spaced_ids, spell
from icl_locate.prompts.tokens import Prompts, check_prompts, check_tokenizer

OnText = Callable[[int, str], object]


def generate(
    model: Model,
    prompts: Prompts,
    mask: Intervention | None = None,
    max_new_tokens: int = 50,
    stop: str | Sequence[str] | None = None,
    *,
    batch_size: int = 32,
    on_text: OnText | None = None,
) -> list[str]:
    """Generate an answer to each prompt greedily, the mask holding at every step.

    Args and errors: as `icl_locate.generate`, which also drops context.
    """
    acting = partial(masked, model)
    with hold_weights(model):
        return decode(model, prompts, acting, max_new_tokens, stop, batch_size, on_text, mask=mask)


def decode(
    model: Model,
    prompts: Prompts,
    context: Callable[[Prompts, Intervention | None], AbstractContextManager[object]],
    max_new_tokens: int,
    stop: str | Sequence[str] | None,
    batch_size: int,
    on_text: OnText | None,
    *,
    mask: Intervention | None = None,
    cache: Callable[[], Cache | None] = lambda: None,
) -> list[str]:
    """Greedy answers to each prompt, each batch inside its own context.

    Args:
        context: given a batch and the mask for it.
        cache: makes the cache of a batch; ``None`` lets the model make its own.
    """
    stops = resolve_stops(prompts, stop)
    check_prompts(model, prompts)
    check_room(model, prompts, max_new_tokens)
    answers: list[str] = []
    for batch, acting in cut(prompts, mask, batch_size):
        growing = Answers(model, len(batch), stops, as_text=prompts.as_text)
        with context(batch, acting):
            first = len(answers)
            decode_batch(model, batch, cache(), growing, max_new_tokens, on_text, first)
        answers += growing.texts()
    return answers


@torch.no_grad()
def decode_batch(
    model: Model,
    prompts: Prompts,
    cache: Cache | None,
    answers: "Answers",
    max_new_tokens: int,
    on_text: OnText | None = None,
    first: int = 0,
) -> None:
    """Let the answers of a batch grow, inside whatever context is open.

    Args:
        first: the number of the batch's first prompt, as ``on_text`` is told it.
    """
    device = model.cfg.device
    step = prompts.tokens.to(device)
    attention_mask = prompts.attention_mask.long().to(device)
    last_only = keep_logits(model, 1)
    for n_new in range(1, max_new_tokens + 1):
        logits, cache = model(
            step,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            return_type="logits_and_cache",
            **last_only,
        )
        step = require_numbers(logits[:, -1]).argmax(dim=-1, keepdim=True)
        done = answers.extend(step[:, 0])
        if on_text is not None:
            for row, text in answers.news(everything=n_new == max_new_tokens):
                on_text(first + row, text)
        if done.all():
            break
        attention_mask = torch.nn.functional.pad(attention_mask, (0, 1), value=1)


class Answers:
    """The answers of a batch while they grow, each ended by EOS or a stop string.

    Args:
        as_text: as `Prompts.as_text`.
    """

    def __init__(
        self,
        model: Model,
        n_answers: int,
        stops: Sequence[str],
        *,
        as_text: bool = True,
    ) -> None:
        self._tokenizer = check_tokenizer(model.tokenizer) if as_text else None
        self._eos = end_tokens(model)
        self._stops = tuple(stops)
        self._tokens: list[list[int]] = [[] for _ in range(n_answers)]
        self._done = [False] * n_answers
        self._told = [""] * n_answers

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

    @property
    def tokens(self) -> list[list[int]]:
        """Each answer's tokens so far, without that which ended it."""
        return self._tokens

    def texts(self) -> list[str]:
        """The answers, cut at their first stop string, without surrounding white space."""
        return [
            cut_at_stop(self._decode(row), self._stops).strip() for row in range(len(self._tokens))
        ]

    def news(self, *, everything: bool = False) -> Iterator[tuple[int, str]]:
        """Each answer's number and what has been settled of its text since it was last asked for.

        Text that may yet be cut off (a stop string's beginning, white space at the end) or change
        (the first bytes of a character) waits, unless the answer is done or ``everything`` is told.
        """
        for row, told in enumerate(self._told):
            text = cut_at_stop(self._decode(row), self._stops)
            settled = text.strip()
            if not (self._done[row] or everything):
                settled = _before_stop(text.rstrip("\ufffd"), self._stops).strip()
            if len(settled) > len(told) and settled.startswith(told):
                self._told[row] = settled
                yield row, settled[len(told) :]

    def _decode(self, row: int) -> str:
        if self._tokenizer is None:
            return spaced_ids(self._tokens[row])
        return spell(self._tokenizer, self._tokens[row])


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the earliest of the stop strings.

    >>> cut_at_stop("le chat Q: the dog", ["Q:"])
    'le chat '
    """
    return text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]


def _before_stop(text: str, stops: Sequence[str]) -> str:
    """The text without an end that a stop string begins with."""
    lengths = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return text[: len(text) - max(lengths, default=0)]


def end_tokens(model: Model) -> frozenset[int]:
    """The tokens that end a text, as the tokenizer and the generation config name them."""
    return identity.end_tokens(model.original_model, model.tokenizer)


def resolve_stops(prompts: Prompts, stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The strings that end an answer: one, several, or (``None``) the template's.

    Raises:
        PromptError: if one of them is empty, or is text where answers are token ids.
    """
    if stop is None:
        stops = prompts.template.stops
    else:
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stops:
        raise PromptError("a stop string is empty: it would end every answer at once")
    return stops if prompts.as_text else tuple(spaced_ids(read_ids("stop", s)) for s in stops)


def check_generation(model: Model, prompts: Prompts, metric: Metric, max_new_tokens: int) -> None:
    """Refuse prompts on which a metric of generated answers could say nothing.

    Raises:
        PromptError: as `check_room` and `check_targets` do; if answers are text, and the model has
            no tokenizer; if they are token ids, and a target holds one that ends them.
    """
    check_room(model, prompts, max_new_tokens)
    stops = resolve_stops(prompts, None)
    if prompts.as_text:
        check_tokenizer(model.tokenizer)
        check_targets([target.strip() for target in prompts.targets], stops, metric)
        return
    check_targets([spaced_ids(target) for target in prompts.target_tokens], stops, metric)
    ends = end_tokens(model)
    for i, target in enumerate(prompts.target_tokens):
        held = next((token for token in target if token in ends), None)
        if held is not None:
            raise PromptError(
                f"the target of prompt {i}, {show(target)}, holds token {held}, at which this "
                "model's answers end, so that none can equal it: leave it out, or use "
                "metric='log_prob'"
            )


def check_targets(targets: Sequence[str], stops: Sequence[str], metric: Metric) -> None:
    """Refuse targets that no generated answer can equal, since answers end at a stop string.

    Where answers are not compared with them (programs are run) they may hold what they like.

    Raises:
        PromptError: naming the first such target.
    """
    if not compares_targets(metric):
        return
    for i, target in enumerate(targets):
        whole = target.strip()
        held = next((stop for stop in stops if cut_at_stop(target, [stop]).strip() != whole), None)
        if held is not None:
            raise PromptError(
                f"the target of query {i}, {show(target)}, holds the stop string {held!r}, at "
                "which answers end, so that none can equal it: change the template's stop, or the "
                "target"
            )


def check_room(model: Model, prompts: Prompts, max_new_tokens: int) -> None:
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
