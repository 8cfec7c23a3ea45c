"""The embedded model's tokenizer: one token a word, bytes for everything else."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from icl_locate.embedded.languages import LANGUAGES, SOURCE_WORDS

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
INSTRUCTION = "Translate English to {}:"
CONTEXT_LENGTH = 512


def vocabulary() -> list[str]:
    """All tokens in the order of their ids: special, layout, words, bytes. "▁" opens a word."""
    words = ["Q:", "A:", "\n", "", *["Translate", "English", "to"]]
    words += [f"{language.name}:" for language in LANGUAGES]
    words += SOURCE_WORDS
    words += sorted({form for language in LANGUAGES for form in language.lexicon.values()})
    spaced = [f"▁{word}" for word in dict.fromkeys(words)]
    return [*SPECIAL_TOKENS, *spaced, *(f"<0x{byte:02X}>" for byte in range(256))]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: a word-level vocabulary that falls back to bytes, so nothing is unknown.

    "Q:", "A:" and line breaks are tokens of their own even when they touch a word; the spaces
    around words are not kept.
    """
    ids = {token: i for i, token in enumerate(vocabulary())}
    backend = Tokenizer(models.BPE(vocab=ids, merges=[], byte_fallback=True, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[QA]:|\n"), "isolated"),
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
