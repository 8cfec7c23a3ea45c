"""Prompts of one's own: token ids and segments as users write them, checked token by token."""

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from icl_locate._types import Part, Segment
from icl_locate.checks.arguments import (
    check_count,
    check_items,
    check_member,
    check_text,
    refuse,
    show,
)
from icl_locate.errors import PromptError
from icl_locate.prompts.alignment import TokenizedPrompt, continue_prompt
from icl_locate.prompts.encoding import check_tokenizer, spell
from icl_locate.prompts.template import PromptTemplate

TokenRows = Int[Tensor, "batch pos"] | Sequence[Sequence[int]]
Flags = Bool[Tensor, "batch pos"] | TokenRows
Label = Segment | str | int
Labels = Int[Tensor, "batch pos"] | Sequence[Sequence[Label | tuple[int, int, Label]]]
PartRows = Int[Tensor, "batch pos"] | Sequence[Sequence[Part | str | int]]

LAST_TOKEN = 2**31 - 1
_SEGMENTS = tuple(s for s in Segment if s not in (Segment.PAD, Segment.GENERATED))
_NAMES = ", ".join(segment.name for segment in _SEGMENTS)
_PARTS = f"one of {', '.join(part.name for part in Part)}"
_ROWS = "a list of token ids for each prompt, or a tensor (batch, pos)"


def own_rows(
    tokens: Any, segments: Any, tokenizer: PreTrainedTokenizerBase | None, **optional: Any
) -> list[TokenizedPrompt]:
    """Prompts as `Prompts.from_tokens` takes them, without their padding.

    Args:
        optional: its ``attention_mask``, ``parts``, ``shots`` and ``words``.

    Raises:
        PromptError: naming the argument, the prompt and the token that do not fit.
    """
    rows = [
        _whole_numbers(f"tokens[{i}]", row) for i, row in enumerate(_rows("tokens", tokens, _ROWS))
    ]
    if not rows:
        raise PromptError("tokens hold no prompts: expected at least one")
    columns = {"segments": _match(rows, "segments", segments)} | {
        name: [None] * len(rows) if value is None else _match(rows, name, value)
        for name, value in optional.items()
    }
    found = []
    for i, row in enumerate(rows):
        given = {name: values[i] for name, values in columns.items()}
        found.append(_own_row(i, row, given, tokenizer))
    return found


def own_targets(
    targets: Any,
    rows: Sequence[TokenizedPrompt],
    tokenizer: PreTrainedTokenizerBase | None,
    template: PromptTemplate,
) -> tuple[list[list[int]], list[str]]:
    """Each prompt's target as tokens and as text.

    Raises:
        PromptError: naming the target that does not fit.
    """
    tokens: list[list[int]] = []
    texts: list[str] = []
    for i, (target, row) in enumerate(zip(_match(rows, "targets", targets), rows, strict=True)):
        name = f"targets[{i}]"
        if isinstance(target, str):
            if tokenizer is None:
                refuse(name, target, "a list of token ids", PromptError, "or give the tokenizer")
            texts.append(check_text(name, target, error=PromptError))
            whole = check_tokenizer(tokenizer)
            tokens.append(continue_prompt(whole, row.text, row.body, target, template))
        else:
            tokens.append(_whole_numbers(name, target))
            texts.append(spell(tokenizer, tokens[-1]).strip())
        if not tokens[-1]:
            raise PromptError(f"{name} is {show(target)}, of no tokens: expected at least one")
    return tokens, texts


def own_texts(name: str, value: Any, n_prompts: int) -> list[str]:
    """A text for each prompt.

    Raises:
        PromptError: if there are more or fewer, or one is none.
    """
    items = check_items(name, value, "a list of texts", ordered=True, error=PromptError)
    if len(items) != n_prompts:
        raise PromptError(
            f"{name} are given for {len(items)} prompts, tokens for {n_prompts}: expected as many"
        )
    return [check_text(f"{name}[{i}]", text, error=PromptError) for i, text in enumerate(items)]


def _own_row(
    i: int,
    tokens: list[int],
    given: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | None,
) -> TokenizedPrompt:
    """Prompt ``i`` without its padding."""
    spans, name = _is_spans(given["segments"]), f"segments[{i}]"
    labels = [] if spans else _labels(name, given["segments"], Segment, f"one of {_NAMES}")
    real = _real_tokens(i, len(tokens), given["attention_mask"], labels)
    kept = tokens[real]
    if not kept:
        raise PromptError(f"prompt {i} of tokens is empty: expected at least one token")

    def aligned(name: str, read: Callable[[str, Any], list[Any]], default: Any) -> list[Any]:
        """A value for each real token, of values for these or for all."""
        if given[name] is None:
            return [default] * len(kept)
        values = read(f"{name}[{i}]", given[name])
        if len(values) not in (len(tokens), len(kept)):
            raise _uneven(f"{name}[{i}]", len(values), len(kept))
        return values[real] if len(values) == len(tokens) else values

    if spans:
        segments = _read_spans(i, given["segments"], len(kept))
    else:
        segments = aligned("segments", lambda *_: labels, None)
    shots = aligned("shots", _whole_numbers, 0)
    _check_segments(i, segments, shots)
    body = [t for t, s in zip(kept, segments, strict=True) if tokenizer is None or s != Segment.BOS]
    return TokenizedPrompt(
        text=spell(tokenizer, body, special=True),
        tokens=kept,
        segments=segments,
        parts=aligned("parts", partial(_labels, kind=Part, expected=_PARTS), Part.NONE),
        shots=shots,
        words=aligned("words", partial(_whole_numbers, least=-1), -1),
    )


def _real_tokens(i: int, n_tokens: int, mask: Any, labels: Sequence[Segment]) -> slice:
    """Which tokens are real: as the mask says, else all but those of PAD at the ends."""
    if mask is not None:
        flags = _whole_numbers(f"attention_mask[{i}]", mask, most=1, flags=True)
        if len(flags) != n_tokens:
            raise _uneven(f"attention_mask[{i}]", len(flags), n_tokens)
        places = [j for j, flag in enumerate(flags) if flag]
        name = f"attention_mask[{i}]"
    else:
        pads = len(labels) == n_tokens
        places = [j for j in range(n_tokens) if not (pads and labels[j] is Segment.PAD)]
        name = f"segments[{i}]"
    hole = next((a + 1 for a, b in pairwise(places) if b > a + 1), None)
    if hole is not None:
        raise PromptError(
            f"{name} has padding at token {hole}, between real tokens: expected padding at a "
            "prompt's ends only; take it out"
        )
    return slice(places[0], places[-1] + 1) if places else slice(0, 0)


def _check_segments(i: int, segments: Sequence[Segment], shots: Sequence[int]) -> None:
    for j, (segment, shot) in enumerate(zip(segments, shots, strict=True)):
        if segment not in _SEGMENTS:
            raise PromptError(
                f"segments[{i}] has {segment.name} at real token {j}: expected one of {_NAMES}"
            )
        if shot and segment is not Segment.EXAMPLES:
            raise PromptError(
                f"shots[{i}] has {shot} at real token {j}, whose segment is {segment.name}: "
                "expected 0 outside EXAMPLES"
            )


def _is_spans(value: Any) -> bool:
    """Whether segments stand there as (start, stop, segment)."""
    first = next(iter(value), None) if isinstance(value, (list, tuple)) else None
    return isinstance(first, (list, tuple))


def _read_spans(i: int, value: Iterable[Any], n_tokens: int) -> list[Segment]:
    """The segment of each token, from spans that hold each of them once."""
    expected = "(start, stop, segment), tokens counted from the prompt's first real one"
    found: list[Segment | None] = [None] * n_tokens
    for k, span in enumerate(value):
        name = f"segments[{i}][{k}]"
        items = check_items(name, span, expected, ordered=True, error=PromptError)
        if len(items) != 3:
            refuse(name, span, expected, PromptError)
        start = check_count(f"the start of {name}", items[0], least=0, error=PromptError)
        stop = check_count(f"the stop of {name}", items[1], least=0, error=PromptError)
        if not start < stop <= n_tokens:
            raise PromptError(
                f"{name} runs from {start} to {stop}: expected start < stop <= {n_tokens}, the "
                f"number of tokens of prompt {i}"
            )
        label = f"the segment of {name}"
        segment = check_member(label, items[2], Segment, f"one of {_NAMES}", error=PromptError)
        for j in range(start, stop):
            if found[j] is not None:
                raise PromptError(
                    f"{name} holds token {j} of prompt {i}, which another span holds, too: "
                    "expected each token in one span"
                )
            found[j] = segment
    whole = [segment for segment in found if segment is not None]
    if len(whole) < n_tokens:
        raise PromptError(
            f"segments[{i}] leave out token {found.index(None)} of prompt {i}: expected spans that "
            f"hold each of its {n_tokens} tokens"
        )
    return whole


def _labels(name: str, value: Any, kind: Any, expected: str) -> list[Any]:
    """Members of an enumeration, by themselves, their names or their numbers."""
    known: dict[Any, IntEnum] = {}
    found = []
    for j, item in enumerate(_items(name, value, f"{expected} for each token")):
        key = type(item), item if isinstance(item, (int, str)) else None
        if key[1] is None or key not in known:
            known[key] = check_member(f"{name}[{j}]", item, kind, expected, error=PromptError)
        found.append(known[key])
    return found


def _whole_numbers(
    name: str, value: Any, *, least: int = 0, most: int = LAST_TOKEN, flags: bool = False
) -> list[int]:
    """Whole numbers within their bounds; ``flags`` lets True and False stand for 1 and 0."""
    found = []
    for j, item in enumerate(_items(name, value, "a list of whole numbers")):
        if type(item) is int and least <= item <= most:
            found.append(item)
        elif flags and isinstance(item, bool):
            found.append(int(item))
        else:
            found.append(
                check_count(f"{name}[{j}]", item, least=least, most=most, error=PromptError)
            )
    return found


def _rows(name: str, value: Any, expected: str) -> list[Any]:
    """The rows of a list or of a tensor."""
    if getattr(value, "ndim", 2) != 2:
        refuse(name, value, expected, PromptError)
    return _items(name, value, expected)


def _items(name: str, value: Any, expected: str) -> list[Any]:
    """The items of a list, a tensor or an array, as Python's own numbers where they can be."""
    if isinstance(value, Tensor) or hasattr(value, "__array_interface__"):
        if value.ndim == 0 or (isinstance(value, Tensor) and value.dtype in _FLOATS):
            refuse(name, value, expected, PromptError)
        return list(value.tolist())
    return check_items(name, value, expected, ordered=True, error=PromptError)


_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _match(rows: Sequence[object], name: str, value: Any) -> list[Any]:
    """A value for each prompt."""
    found = _rows(name, value, "a list for each prompt")
    if len(found) != len(rows):
        raise PromptError(
            f"{name} are given for {len(found)} prompts, tokens for {len(rows)}: expected as many"
        )
    return found


def _uneven(name: str, n_values: int, n_tokens: int) -> PromptError:
    return PromptError(
        f"{name} has {n_values} values, but its prompt has {n_tokens} tokens: expected one for each"
    )
