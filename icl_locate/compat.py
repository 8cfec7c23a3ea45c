"""Hiding exactly the columns that the code of Sia et al. (2024) hides.

Their columns come from counts of tokens of header, examples and query, each tokenised on its own,
and miss the segments' borders by a token or two. The prompts' segments are relabelled here: what
they hide becomes EXAMPLES, all else QUERY.
"""

from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from icl_locate._types import Segment
from icl_locate.conditions import Condition
from icl_locate.errors import MaskError
from icl_locate.layers import LayerRange
from icl_locate.masks import ContextMask
from icl_locate.tokens import Prompts

COMPAT = "sia2024"


def sia2024_columns(
    header: int, context: int, query: int, hide: frozenset[Segment], *, bos: bool
) -> tuple[int, int]:
    """The hidden columns ``[from, till)``, counted from the first real token.

    Args:
        header, context, query: tokens of the header, of header and examples, and of the query, each
            tokenised on its own, without BOS.
        hide: the condition's segments.
        bos: whether BOS stands in column 0.

    Raises:
        MaskError: if their code has no such condition.
    """
    spans = {
        frozenset({Segment.EXAMPLES}): (header + 2, context + 3) if bos else (header, context + 1),
        frozenset({Segment.INSTRUCTIONS, Segment.EXAMPLES}): (
            (1, context + 3) if bos else (0, context + 1)
        ),
        frozenset({Segment.QUERY}): (
            (context + 2, context + query + 3) if bos else (context, context + query)
        ),
        frozenset({Segment.INSTRUCTIONS, Segment.EXAMPLES, Segment.QUERY}): (
            (1, context + query + 3) if bos else (0, context + query)
        ),
    }
    if hide not in spans:
        names = ", ".join(sorted(segment.name for segment in hide))
        raise MaskError(
            f"the authors' code hides nothing like {{{names}}}: use compat=None, or one of the "
            "paper's first five conditions"
        )
    return spans[hide]


def sia2024_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Prompts, condition: Condition
) -> tuple[Prompts, int]:
    """The prompts with what their code hides relabelled as EXAMPLES, all else as QUERY.

    Returns:
        The prompts, and how many generated tokens their code hides, too.
    """
    segments = torch.where(prompts.attention_mask, int(Segment.QUERY), int(Segment.PAD))
    width, beyond = segments.shape[1], 0
    for i in range(len(prompts)):
        bos = bool((prompts.segments[i] == Segment.BOS).any())
        header, context, query = _counts(tokenizer, prompts, i)
        hide = frozenset(condition.hide)
        start, till = sia2024_columns(header, context, query, hide, bos=bos)
        first = width - int(prompts.attention_mask[i].sum())
        segments[i, first + start : first + till] = int(Segment.EXAMPLES)
        if bos:
            segments[i, first] = int(Segment.BOS)
        beyond = max(0, till - (context + query + 1 + bos))  # by their counts, as the columns are
    return replace(prompts, segments=segments.to(torch.int8)), beyond


def sia2024_mask(layers: LayerRange, beyond: int) -> ContextMask:
    """The mask that goes with relabelled prompts."""
    return ContextMask({Segment.EXAMPLES}, layers, hide_generated=beyond)


def _counts(tokenizer: PreTrainedTokenizerBase, prompts: Prompts, i: int) -> tuple[int, int, int]:
    template = prompts.template
    header = template.instruction or ""
    query = f"{template.source_prefix}{prompts.sources[i]}{template.target_prefix}"
    context = prompts.texts[i].removesuffix(query).removesuffix("\n")
    texts = (header, context, query)
    return tuple(  # type: ignore[return-value]
        len(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0 for text in texts
    )
