"""The embedded model's tokenizer: one token a word, bytes for everything else."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from icl_locate.embedded.languages import LANGUAGES, SOURCE_WORDS
from icl_locate.embedded.words import CATEGORIES, LABELS, LETTERS, PATTERN_INSTRUCTION

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
INSTRUCTION = "Translate English to {}:"
CONTEXT_LENGTH = 512
LAYOUT = ("Q:", "A:", ":", "\n")

_LAYOUT = r"(?<![A-Z] )[QA]:|(?<=[A-Za-z]):|\n"
"""What stands for itself even when it touches a word. An "A:" behind another single letter is the
last of a sequence of letters ("A B C B A:Foo"), not the mark of an answer; colons inside Python
follow no letter."""


def vocabulary() -> list[str]:
    """All tokens in the order of their ids: special, layout, words, bytes. "▁" opens a word."""
    spaced = [f"▁{word}" for word in (*LAYOUT, "", *word_stock())]
    return [*SPECIAL_TOKENS, *spaced, *(f"<0x{byte:02X}>" for byte in range(256))]


def word_stock() -> list[str]:
    """All words that are one token each: of the instructions, languages and pattern tasks."""
    words = ["Translate", "English", "to", *PATTERN_INSTRUCTION.split()]
    words += [language.name for language in LANGUAGES]
    words += SOURCE_WORDS
    words += sorted({form for language in LANGUAGES for form in language.lexicon.values()})
    words += [*LABELS, *LETTERS, *(word for category in CATEGORIES.values() for word in category)]
    return list(dict.fromkeys(words))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: a word-level vocabulary that falls back to bytes, so nothing is unknown.

    "Q:", "A:", the colon behind a word and line breaks are tokens of their own even when they touch
    a word; the spaces around words are not kept.
    """
    ids = {token: i for i, token in enumerate(vocabulary())}
    backend = Tokenizer(models.BPE(vocab=ids, merges=[], byte_fallback=True, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LAYOUT), "isolated"),
            pre_tokenizers.Split(Regex(r" +"), "removed"),
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
        ]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(directory: Path) -> None:
    """Write the tokenizer's files into ``directory``."""
    build_tokenizer().save_pretrained(directory)
