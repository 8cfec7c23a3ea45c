"""A batch of prompts as tokens, left-padded, however it was made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from icl_locate._types import Part, Segment
from icl_locate.checks.arguments import refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.errors import PromptError
from icl_locate.prompts.alignment import TokenizedPrompt
from icl_locate.prompts.encoding import read_ids, spell
from icl_locate.prompts.own import (
    LAST_TOKEN,
    Flags,
    Labels,
    PartRows,
    TokenRows,
    own_rows,
    own_targets,
    own_texts,
)
from icl_locate.prompts.template import PromptTemplate


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
        as_text: whether texts, and with them generated answers and stop strings, are text of the
            model's tokenizer; False: they are token ids, joined by spaces ("12 7 9").
        content_free: the same prompts, item by item, with inputs that say nothing in the place of
            the queries' sources: for each such input its own, where a metric asks for them
            (`CalibratedLabelAccuracy`).
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
    as_text: bool = True
    content_free: tuple["Prompts", ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    @classmethod
    @checked(
        PromptError,
        tokens=anything,
        segments=anything,
        targets=anything,
        attention_mask=anything,
        parts=anything,
        shots=anything,
        words=anything,
        pad_token=whole(0, LAST_TOKEN),
    )
    def from_tokens(
        cls,
        tokens: TokenRows,
        segments: Labels,
        *,
        targets: Sequence[Sequence[int] | str],
        attention_mask: Flags | None = None,
        parts: PartRows | None = None,
        shots: TokenRows | None = None,
        words: TokenRows | None = None,
        texts: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        pad_token: int = 0,
        template: PromptTemplate | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> "Prompts":
        """Prompts of one's own, already tokenised: each query brings its own context.

        Args:
            tokens: a list of token ids for each prompt, of any lengths, or a tensor (batch, pos).
            segments: what each token belongs to: for each prompt a value for each token, members
                of `Segment`, their names or numbers; or spans ``(start, stop, segment)``, counted
                from the prompt's first real token, that hold each token once.
            targets: for each prompt the token ids that should follow it; or a text, with a
                tokenizer.
            attention_mask: which tokens are real, where rows are padded (on either side); ``None``
                means all but those whose segment is PAD.
            parts: members of `Part` for each token; ``None`` means none.
            shots: the example that each token belongs to, from 1; ``None`` means unknown, 0.
            words: as ``prompts.words``; ``None`` means -1, so that induction edges go by token.
            texts, sources: names of the prompts and of what they ask, for results; ``None`` means
                their tokens, and those of the query.
            tokenizer: what the tokens are of; ``None`` if there is none: texts are then token ids
                joined by spaces ("12 7 9"), those of generated answers too.
            pad_token: what stands at padding.
            template: an answer's spaces in front, and its stop strings; ``None`` has neither.
            stop: strings that end a generated answer, in place of the template's; without tokenizer
                token ids joined by spaces, such as "13".

        Raises:
            PromptError: whatever does not fit; it names the argument, the prompt and the token.

        >>> prompts = Prompts.from_tokens(
        ...     [[5, 6, 7, 5], [8, 9, 8]],
        ...     [[(0, 3, "examples"), (3, 4, "query")], ["examples", "examples", "query"]],
        ...     targets=[[6], [9]],
        ... )
        >>> prompts.texts, prompts.targets, prompts.tokens[1].tolist()
        (['5 6 7 5', '8 9 8'], ['6', '9'], [0, 8, 9, 8])
        """
        layout = template or PromptTemplate(None, "", "", "", stop=())
        if stop is not None:
            layout = replace(layout, stop=(stop,) if isinstance(stop, str) else tuple(stop))
        if tokenizer is None:
            for text in layout.stops:
                read_ids("stop", text)
        rows = own_rows(
            tokens,
            segments,
            tokenizer,
            attention_mask=attention_mask,
            parts=parts,
            shots=shots,
            words=words,
        )
        target_tokens, target_texts = own_targets(targets, rows, tokenizer, layout)
        own = {
            "texts": [row.text for row in rows],
            "sources": [spell(tokenizer, row.question).strip() for row in rows],
        }
        for name, value in (("texts", texts), ("sources", sources)):
            own[name] = own[name] if value is None else own_texts(name, value, len(rows))
        return pad_rows(
            rows,
            pad_token,
            target_tokens=target_tokens,
            targets=target_texts,
            template=layout,
            as_text=tokenizer is not None,
            **own,
        )

    @property
    def bodies(self) -> list[list[int]]:
        """Each prompt's tokens without padding and BOS."""
        real = (self.segments != Segment.PAD) & (self.segments != Segment.BOS)
        return [row[some].tolist() for row, some in zip(self.tokens, real, strict=True)]

    @property
    def forms(self) -> list["Prompts"]:
        """The prompts as they are, and behind them with each content-free input."""
        return [replace(self, content_free=()), *self.content_free]

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
        chosen["content_free"] = tuple(some.take(items) for some in self.content_free)
        width = int(chosen["attention_mask"].sum(dim=1).max()) if items else 0
        for name, value in chosen.items():
            if isinstance(value, Tensor):
                chosen[name] = value[:, value.shape[1] - width :]
        return replace(self, **chosen)

    @checked(PromptError)
    def batches(self, size: int) -> Iterator["Prompts"]:
        """Consecutive slices of at most ``size`` prompts.

        Raises:
            PromptError: if ``size`` is less than 1.
        """
        for start in range(0, len(self), size):
            yield self[start : start + size]


def pad_rows(
    rows: Sequence[TokenizedPrompt],
    pad_token: int,
    *,
    target_tokens: list[list[int]],
    texts: list[str],
    sources: list[str],
    targets: list[str],
    template: PromptTemplate,
    as_text: bool = True,
) -> Prompts:
    """Pad prompts on the left to one width.

    Args:
        pad_token: what stands at padding.
        target_tokens, texts, sources, targets, template, as_text: as the fields of `Prompts`.
    """
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
        as_text=as_text,
    )
