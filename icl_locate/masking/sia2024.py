"""Hiding exactly the columns that the code of Sia et al. (2024) hides.

Their columns come from counts of tokens of header, examples and query, each tokenised on its own,
and miss the segments' borders by a token or two. The prompts' segments are relabelled here: what
they hide becomes EXAMPLES, all else QUERY. Where columns reach beyond a prompt, its first generated
tokens are hidden, too: how many is a matter of each prompt, since one whose tokens merge across the
borders is shorter than the sum of its parts.
"""

from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from icl_locate._types import Segment
from icl_locate.errors import MaskError
from icl_locate.interventions.conditions import Condition
from icl_locate.interventions.layers import LayerRange
from icl_locate.interventions.masks import ContextMask
from icl_locate.prompts.encoding import count_tokens, is_plain
from icl_locate.prompts.tokens import Prompts

COMPAT = "sia2024"


_THEIR_BOS = {
    "GPTNeoForCausalLM": False,
    "BloomForCausalLM": False,
    "Starcoder2ForCausalLM": False,
    "LlamaForCausalLM": True,
}


def sia2024_bos(architecture: str, prepend_bos: bool | None) -> bool:
    """Whether prompts start with BOS in their code, which has other columns where they do.

    Args:
        prepend_bos: what was asked for; for an architecture that they did not run it decides.

    Raises:
        MaskError: if it contradicts their code, or is ``None`` where their code says nothing.
    """
    theirs = _THEIR_BOS.get(architecture)
    if theirs is None:
        if prepend_bos is None:
            raise MaskError(
                f"compat={COMPAT!r}: the authors ran no {architecture}, and their columns depend "
                f"on BOS: say prepend_bos=True for the columns of {_names(bos=True)}, or "
                f"prepend_bos=False for those of {_names(bos=False)}"
            )
        return prepend_bos
    if prepend_bos not in (None, theirs):
        raise MaskError(
            f"prepend_bos is {prepend_bos}, but the authors' code runs {architecture} "
            f"{'with' if theirs else 'without'} BOS: leave it out with compat={COMPAT!r}"
        )
    return theirs


def _names(*, bos: bool) -> str:
    names = [name for name, theirs in _THEIR_BOS.items() if theirs is bos]
    return ", ".join(name.removesuffix("ForCausalLM") for name in names)


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
) -> tuple[Prompts, tuple[int, ...]]:
    """The prompts with what their code hides relabelled as EXAMPLES, all else as QUERY.

    Returns:
        The prompts, and how many generated tokens their code hides behind each.
    """
    segments = torch.where(prompts.attention_mask, int(Segment.QUERY), int(Segment.PAD))
    width, beyond = segments.shape[1], list[int]()
    for i in range(len(prompts)):
        bos = bool((prompts.segments[i] == Segment.BOS).any())
        header, context, query = _counts(tokenizer, prompts, i)
        hide = frozenset(condition.hide)
        start, till = sia2024_columns(header, context, query, hide, bos=bos)
        n_real = int(prompts.attention_mask[i].sum())
        first = width - n_real
        segments[i, first + start : first + till] = int(Segment.EXAMPLES)
        if bos:
            segments[i, first] = int(Segment.BOS)
        beyond.append(max(0, till - n_real))
    return replace(prompts, segments=segments.to(torch.int8)), tuple(beyond)


def sia2024_mask(layers: LayerRange, beyond: int) -> ContextMask:
    """The mask that goes with relabelled prompts."""
    return ContextMask({Segment.EXAMPLES}, layers, hide_generated=beyond)


def _counts(tokenizer: PreTrainedTokenizerBase, prompts: Prompts, i: int) -> tuple[int, int, int]:
    template, text = prompts.template, prompts.texts[i]
    header = template.instruction or ""
    query = f"{template.source_prefix}{prompts.sources[i]}{template.cue}"
    context = text.removesuffix(query).removesuffix("\n")
    plain = is_plain(tokenizer, text, prompts.bodies[i])
    return tuple(  # type: ignore[return-value]
        count_tokens(tokenizer, part, plain=plain) for part in (header, context, query)
    )
