"""Text as a tokenizer's tokens, with control tokens kept out of a task's texts.

Fast tokenizers look for their special tokens (BOS, EOS, a chat's turns) in every text before they
do anything else: "</s>" in a review would end the text. A template's own words may hold such tokens
on purpose; the texts of a task hold them by accident, or because somebody put them there.
"""

from collections.abc import Sequence
from itertools import accumulate

from transformers import BatchEncoding, PreTrainedTokenizerBase

from icl_locate._types import Part
from icl_locate.checks.arguments import refuse, show
from icl_locate.errors import PromptError
from icl_locate.prompts.template import Span, SpecialTokens

_OF_TASK = (Part.SOURCE, Part.TARGET)
_UNSPELLABLE = ", and cannot encode as text"

Range = tuple[int, int]
"""Characters ``[from, till)`` of a text."""


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


def encode_spans(
    tokenizer: PreTrainedTokenizerBase,
    spans: Sequence[Span],
    special_tokens: SpecialTokens | str = "text",
) -> BatchEncoding:
    """The whole prompt's tokens, offsets and special tokens' mask, from one tokenisation.

    Args:
        special_tokens: what control tokens in sources and targets are, as `PromptTemplate` says.

    Raises:
        PromptError: if they hold one that is refused, or that cannot be encoded as text.
    """
    text = "".join(span.text for span in spans)
    found = _encode(tokenizer, text)
    if special_tokens == "control" or not (held := control_tokens(tokenizer, text, found)):
        return found
    ends = list(accumulate(len(span.text) for span in spans))
    ranges = [
        ((end - len(span.text), end), span)
        for end, span in zip(ends, spans, strict=True)
        if span.part in _OF_TASK
    ]
    intruders = [(t, span) for t in held for place, span in ranges if _meet(t, place)]
    if not intruders:
        return found
    (start, end), span = intruders[0]
    what = span.part.name.lower(), span.text, text[start:end]
    if special_tokens == "refuse":
        raise _refusal(*what)
    own = [t for t in held if not any(_meet(t, place) for place, _ in ranges)]
    if own:
        theirs = text[own[0][0] : own[0][1]]
        raise _refusal(*what, f", and the template itself uses such tokens ({theirs!r})")
    plain = _encode(tokenizer, text, plain=True)
    if control_tokens(tokenizer, text, plain):
        raise _refusal(*what, _UNSPELLABLE)
    return plain


def encode_target(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    tokens: Sequence[int],
    target: str,
    special_tokens: SpecialTokens | str = "text",
) -> list[int]:
    """A target's tokens, as they continue a prompt's.

    They come from one tokenisation of both where that keeps the prompt's tokens, else (a merge
    across the border) from the target on its own.

    Args:
        prompt, tokens: the prompt's text, and its tokens without BOS.
        target: what follows it, with the space before it, if any.
        special_tokens: what control tokens in the target are.

    Raises:
        PromptError: as `encode_spans` does.
    """
    ways = (False, True) if special_tokens == "text" else (False,)
    beginnings = ((prompt, list(tokens)), ("", list[int]()))
    for text, before in beginnings:
        for plain in ways:
            found = _encode(tokenizer, text + target, plain=plain, alone=True)
            ids = list[int](found["input_ids"])
            if ids[: len(before)] != before or len(ids) == len(before):
                continue
            held = control_tokens(tokenizer, text + target, found)
            border = len(text), len(text + target)
            if special_tokens == "control" or not any(_meet(t, border) for t in held):
                return ids[len(before) :]
    held = control_tokens(tokenizer, target, _encode(tokenizer, target, alone=True))
    if not held:
        return []  # nothing but characters that this tokenizer drops
    start, end = held[0]
    why = _UNSPELLABLE if special_tokens == "text" else ""
    raise _refusal("target", target, target[start:end], why)


def spell(
    tokenizer: PreTrainedTokenizerBase | None, tokens: Sequence[int], *, special: bool = False
) -> str:
    """Tokens as text; without a tokenizer their ids, joined by spaces.

    Args:
        special: whether the text shows control tokens.

    >>> spell(None, [12, 7, 9])
    '12 7 9'
    """
    if tokenizer is None:
        return " ".join(map(str, tokens))
    return str(
        tokenizer.decode(
            list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
    )


def read_ids(name: str, text: str) -> list[int]:
    """The token ids of a text such as "12 7 9".

    Raises:
        PromptError: if it is another text.
    """
    words = text.split()
    if not words or not all(word.isdecimal() and word.isascii() for word in words):
        refuse(name, text, 'token ids joined by spaces, such as "13"', PromptError)
    return [int(word) for word in words]


def spaced_ids(tokens: Sequence[int]) -> str:
    """Token ids with a space on either side, so that a text holds whole ones alone.

    >>> spaced_ids([7]) in spaced_ids([12, 7, 9]), spaced_ids([2]) in spaced_ids([12, 7])
    (True, False)
    """
    return f" {spell(None, tokens)} "


def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str, *, plain: bool = False) -> int:
    """How many tokens a text of its own takes, without BOS.

    Args:
        plain: whether control tokens in it are encoded as text.
    """
    return len(_encode(tokenizer, text, plain=plain, alone=True)["input_ids"]) if text else 0


def is_plain(tokenizer: PreTrainedTokenizerBase, text: str, tokens: Sequence[int]) -> bool:
    """Whether a text's tokens, without BOS, are those that take control tokens for text."""
    return list(_encode(tokenizer, text, alone=True)["input_ids"]) != list(tokens)


def control_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, encoding: BatchEncoding
) -> list[Range]:
    """Where the control tokens of a text stand in it, those left out that a tokenizer adds.

    Control tokens are those that the tokenizer marks as special. Other added tokens, such as the
    runs of spaces of GPT-NeoX or a word that somebody added, are ordinary vocabulary.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    found: list[Range] = []
    columns = ("input_ids", "offset_mapping", "special_tokens_mask")
    for token, (start, end), added in zip(*(encoding[name] for name in columns), strict=True):
        if added or token not in special:
            continue
        piece = text[start:end]
        inked = start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
        unknown = token == tokenizer.unk_token_id and piece.strip() != tokenizer.unk_token
        if not unknown and inked[0] < inked[1]:
            found.append(inked)
    return found


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, plain: bool = False, alone: bool = False
) -> BatchEncoding:
    return tokenizer(
        text,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        split_special_tokens=plain,
        add_special_tokens=not alone,
    )


def _meet(one: Range, other: Range) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _refusal(part: str, text: str, held: str, why: str = "") -> PromptError:
    return PromptError(
        f"the {part} {show(text.strip())} holds {held!r}, which this tokenizer reads as a control "
        f"token{why}: take it out of the text, or choose the template's special_tokens ('text': "
        "encode it as text where that can be done; 'control': let it act)"
    )
