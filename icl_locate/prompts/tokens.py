"""Prompts as tokens: one tokenisation a prompt, each token aligned to its segment, left-padded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from icl_locate._types import Part, Segment
from icl_locate.checks.arguments import LAST_SEED, refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.errors import ModelError, PromptError
from icl_locate.prompts.alignment import TokenizedPrompt, align, continue_prompt
from icl_locate.prompts.template import (
    Choice,
    Example,
    PromptTemplate,
    choose_examples,
)


@runtime_checkable
class TokenizedModel(Protocol):
    """What prompts need of a model: a tokenizer, and a configuration with its context length."""

    tokenizer: PreTrainedTokenizerBase | None
    cfg: object


@short_repr("tokens", "template")
@dataclass(frozen=True)
class Prompts:
    """A batch of left-padded prompts.

    Attributes:
        tokens: token ids.
        attention_mask: True at real tokens, False at padding.
        segments: values of `Segment`; they partition the real tokens.
        parts: values of `Part`: source, target and delimiters of examples and query.
        shots: the example that a token belongs to, from 1; 0 outside the examples.
        words: a number for the word, label or delimiter that a token belongs to and for its place
            in it, the same for the same within a prompt; -1 at BOS and padding.
        target_tokens: the target's tokens, as they continue the prompt.
        texts, sources, targets: the prompts, the queries' sources and their wanted outputs.
        template: the layout, whose stop strings end an answer.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    segments: Int8[Tensor, "batch pos"]
    parts: Int8[Tensor, "batch pos"]
    shots: Int[Tensor, "batch pos"]
    words: Int[Tensor, "batch pos"]
    target_tokens: list[list[int]]
    texts: list[str]
    sources: list[str]
    targets: list[str]
    template: PromptTemplate

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def bodies(self) -> list[list[int]]:
        """Each prompt's tokens without padding and BOS."""
        real = (self.segments != Segment.PAD) & (self.segments != Segment.BOS)
        return [row[some].tolist() for row, some in zip(self.tokens, real, strict=True)]

    def __getitem__(self, index: slice) -> "Prompts":
        """The prompts of a slice, with the padding that all of them share cut off."""
        if not isinstance(index, slice):
            refuse("index", index, "a slice, such as prompts[0:1]", PromptError)
        try:
            chosen = range(len(self))[index]
        except (TypeError, ValueError):
            refuse("index", index, "a slice of whole numbers, such as prompts[0:1]", PromptError)
        return self.take(chosen)

    @checked(PromptError)
    def take(self, items: Sequence[int]) -> "Prompts":
        """Some of the prompts, with the padding that all of them share cut off."""
        chosen: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                chosen[field.name] = value[list(items)]
            elif isinstance(value, list):
                chosen[field.name] = [value[i] for i in items]
        width = int(chosen["attention_mask"].sum(dim=1).max()) if items else 0
        for name, value in chosen.items():
            if isinstance(value, Tensor):
                chosen[name] = value[:, value.shape[1] - width :]
        return Prompts(**chosen, template=self.template)

    @checked(PromptError)
    def batches(self, size: int) -> Iterator["Prompts"]:
        """Consecutive slices of at most ``size`` prompts.

        Raises:
            PromptError: if ``size`` is less than 1.
        """
        for start in range(0, len(self), size):
            yield self[start : start + size]


@checked(PromptError, model=anything, seed=whole(-LAST_SEED, LAST_SEED))
def build_prompts(
    model: TokenizedModel,
    queries: Sequence[Example],
    *,
    examples: Sequence[Example] = (),
    n_shots: int = 5,
    template: PromptTemplate | None = None,
    seed: int = 0,
    choice: Choice | str = "random",
    prepend_bos: bool | None = None,
) -> Prompts:
    """Build few-shot prompts for a model: choose examples, lay them out, tokenise, align and pad.

    Args:
        queries: the items to answer; their targets become ``prompts.targets``.
        examples: the bank that shots are drawn from, without the query itself.
        n_shots: examples a prompt.
        template: the layout; the default has no instruction.
        seed: which examples are drawn; the draw depends on it and the query's source alone.
        choice: "random", "balanced" over the targets, or "disjoint": balanced, and sharing no word
            with the query.
        prepend_bos: ``None`` follows ``model.tokenizer``, which TransformerLens sets to prepend
            BOS wherever there is one (GPT-2 too); True or False force it.

    Raises:
        ModelError: a model without tokenizer and configuration, such as a name.
        PromptError: no queries; too few examples; an empty source or target; a prompt that exceeds
            the model's context; control tokens in a source or target that the template refuses;
            tokens beyond its vocabulary; a tokenizer without offsets, padding token or (if asked
            for) BOS.
    """
    if not isinstance(model, TokenizedModel):
        hint = "icl_locate.load_model(NAME_OR_DIRECTORY) gives one"
        refuse("model", model, "a TransformerBridge with a tokenizer", ModelError, hint)
    template = template or PromptTemplate()
    tokenizer = check_tokenizer(model.tokenizer)
    if not queries:
        raise PromptError("no queries were given: expected at least one Example")
    rows: list[TokenizedPrompt] = []
    targets: list[list[int]] = []
    for query in queries:
        shots = choose_examples(query, examples, n_shots, seed=seed, choice=choice)
        for example in (query, *shots):
            _check_example(example)
        spans = template.render(shots, query.source)
        special = template.special_tokens
        row = align(tokenizer, spans, prepend_bos=prepend_bos, special_tokens=special)
        rows.append(row)
        targets.append(continue_prompt(tokenizer, row.text, row.body, query.target, template))
    _check_length(model, rows, targets)
    prompts = _pad(
        rows,
        int(tokenizer.pad_token_id),
        target_tokens=targets,
        texts=[row.text for row in rows],
        sources=[query.source for query in queries],
        targets=[query.target for query in queries],
        template=template,
    )
    check_vocabulary(model, [*prompts.tokens.tolist(), *targets])
    return prompts


def check_vocabulary(model: TokenizedModel, rows: Iterable[Iterable[int]]) -> None:
    """Refuse tokens that the model has no embedding of, such as those added to its tokenizer.

    Raises:
        PromptError: naming the first one, and how many tokens model and tokenizer have.
    """
    size = vocabulary_size(model)
    beyond = [token for row in rows for token in row if size is not None and token >= size]
    if beyond:
        tokenizer = check_tokenizer(model.tokenizer)
        text = tokenizer.convert_ids_to_tokens(beyond[0])
        raise PromptError(
            f"token {beyond[0]} ({text!r}) is beyond the model's vocabulary of {size} tokens; its "
            f"tokenizer has {len(tokenizer)}: load the model with its own tokenizer, without "
            "tokens that were added, or resize the embedding before the model becomes a bridge"
        )


def vocabulary_size(model: TokenizedModel) -> int | None:
    """How many tokens the model has embeddings of; ``None`` if that is not known."""
    inner = getattr(model, "original_model", None)
    if inner is not None:
        return int(inner.get_input_embeddings().weight.shape[0])
    size = getattr(model.cfg, "d_vocab", None)
    return None if size is None else int(size)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer if prompts can be built with it.

    Raises:
        PromptError: if there is none, or it has no character offsets or no padding token.
    """
    if tokenizer is None:
        raise PromptError("the model has no tokenizer: load it with one, or set model.tokenizer")
    if not tokenizer.is_fast:
        raise PromptError(
            f"{type(tokenizer).__name__} gives no character offsets: expected a fast tokenizer "
            "(AutoTokenizer.from_pretrained(..., use_fast=True))"
        )
    if tokenizer.pad_token_id is None:
        raise PromptError(
            "the tokenizer has no padding token: set one, for instance "
            "model.tokenizer.pad_token = model.tokenizer.eos_token"
        )
    return tokenizer


def _check_example(example: Example) -> None:
    for name in ("source", "target"):
        if not getattr(example, name).strip():
            raise PromptError(f"{example!r} has an empty {name}: expected text")


def _check_length(
    model: TokenizedModel, rows: Sequence[TokenizedPrompt], targets: Sequence[Sequence[int]]
) -> None:
    limit = getattr(model.cfg, "n_ctx", None)
    lengths = [len(row.tokens) + len(target) for row, target in zip(rows, targets, strict=True)]
    longest = max(range(len(rows)), key=lengths.__getitem__)
    if limit is not None and lengths[longest] > limit:
        raise PromptError(
            f"prompt {longest} takes {len(rows[longest].tokens)} tokens, {lengths[longest]} with "
            f"its target, but the model's context holds {limit}: use fewer shots or shorter text"
        )


def _pad(
    rows: Sequence[TokenizedPrompt],
    pad_token: int,
    *,
    target_tokens: list[list[int]],
    texts: list[str],
    sources: list[str],
    targets: list[str],
    template: PromptTemplate,
) -> Prompts:
    width = max(len(row.tokens) for row in rows)

    def padded(name: str, value: int, dtype: torch.dtype) -> Tensor:
        values = [getattr(row, name) for row in rows]
        return torch.tensor([[value] * (width - len(v)) + list(v) for v in values], dtype=dtype)

    segments = padded("segments", int(Segment.PAD), torch.int8)
    return Prompts(
        tokens=padded("tokens", pad_token, torch.long),
        attention_mask=segments != Segment.PAD,
        segments=segments,
        parts=padded("parts", int(Part.NONE), torch.int8),
        shots=padded("shots", 0, torch.long),
        words=padded("words", -1, torch.long),
        target_tokens=target_tokens,
        texts=texts,
        sources=sources,
        targets=targets,
        template=template,
    )
