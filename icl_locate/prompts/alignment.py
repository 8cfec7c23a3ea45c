"""One prompt as tokens: from one tokenisation, each token with the segment that it belongs to."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from icl_locate._types import Part, Segment
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import PromptError
from icl_locate.prompts.encoding import encode_spans, encode_target
from icl_locate.prompts.template import PromptTemplate, Span, SpecialTokens
from icl_locate.prompts.words import number_words


@short_repr("tokens")
@dataclass(frozen=True)
class TokenizedPrompt:
    """One prompt's text and tokens, each with its segment, part, shot and word; no padding."""

    text: str
    tokens: list[int]
    segments: list[Segment]
    parts: list[Part]
    shots: list[int]
    words: list[int]

    @property
    def body(self) -> list[int]:
        """The tokens without BOS."""
        pairs = zip(self.tokens, self.segments, strict=True)
        return [token for token, segment in pairs if segment is not Segment.BOS]

    @property
    def question(self) -> list[int]:
        """The query's source; without parts that tell, all of its tokens."""
        rows = zip(self.tokens, self.segments, self.parts, strict=True)
        asked = [(token, part) for token, s, part in rows if s is Segment.QUERY]
        source = [token for token, part in asked if part is Part.SOURCE]
        return source or [token for token, _ in asked]


def align(
    tokenizer: PreTrainedTokenizerBase,
    spans: Sequence[Span],
    *,
    prepend_bos: bool | None = None,
    special_tokens: SpecialTokens | str = "text",
) -> TokenizedPrompt:
    """Tokenise the whole prompt once and give each token the span it belongs to.

    A token across a border goes to the span of its first character that is no white space; a token
    of nothing but white space goes to the span of its first character.
    """
    text = "".join(span.text for span in spans)
    ends = list(accumulate(len(span.text) for span in spans))
    encoding = encode_spans(tokenizer, spans, special_tokens)
    ids, special = list(encoding["input_ids"]), list(encoding["special_tokens_mask"])
    n_before = next((i for i, flag in enumerate(special) if not flag), len(special))
    n_after = next((i for i, flag in enumerate(reversed(special)) if not flag), 0)
    bos = ids[:n_before]
    if prepend_bos is False:
        bos = []
    elif prepend_bos and not bos:
        if tokenizer.bos_token_id is None:
            raise PromptError("prepend_bos=True, but the tokenizer has no BOS token")
        bos = [int(tokenizer.bos_token_id)]
    body = slice(n_before, len(ids) - n_after)
    if not ids[body]:
        raise PromptError(
            f"{type(tokenizer).__name__} gave no tokens for {text[:40]!r}: its files do not belong "
            "together; load the model with its own tokenizer"
        )
    tokens = bos + ids[body]
    segments = [Segment.BOS] * len(bos)
    parts = [Part.NONE] * len(bos)
    shots = [0] * len(bos)
    firsts: list[int] = []
    previous_end = 0
    for start, end in encoding["offset_mapping"][body]:
        if start == end:  # some tokenizers trim the white space that a token covers
            start = previous_end
        previous_end = max(previous_end, end)
        piece = text[start:end]
        first = start + len(piece) - len(piece.lstrip()) if piece.strip() else start
        firsts.append(first)
        span = spans[min(bisect_right(ends, first), len(spans) - 1)]
        segments.append(span.segment)
        parts.append(span.part)
        shots.append(span.shot)
    words = [-1] * len(bos) + number_words(text, firsts)
    return TokenizedPrompt(text, tokens, segments, parts, shots, words)


def continue_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    body: Sequence[int],
    target: str,
    template: PromptTemplate,
) -> list[int]:
    """A target's tokens, as they continue a prompt's.

    Args:
        prompt, body: the prompt's text, and its tokens without BOS.
        target: the wanted output; the template says what stands before it.

    Raises:
        PromptError: if it holds control tokens that the template refuses.
    """
    return encode_target(tokenizer, prompt, body, template.answer(target), template.special_tokens)
