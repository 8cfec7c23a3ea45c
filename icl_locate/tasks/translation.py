"""Translation: two parallel files, FLORES in its own layout, or FLORES+ from the Hub."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from icl_locate.checks.signatures import checked
from icl_locate.errors import TaskError
from icl_locate.prompts.template import Example, PromptTemplate
from icl_locate.tasks.files import read_dataset, read_lines
from icl_locate.tasks.task import DEFAULT_TEMPLATE, Task

FLORES_PLUS = "openlanguagedata/flores_plus"
N_BANK = 200  # the last dev lines, from which examples are drawn (Sia et al. 2024)
N_TRAIN = 800  # the first dev lines, which LoRA is trained on

# ISO 639-1, then the name, and FLORES's codes: FLORES-101 uses the first three letters
_LANGUAGES: dict[str, tuple[str, str]] = {
    "ar": ("Arabic", "arb_Arab"),
    "bg": ("Bulgarian", "bul_Cyrl"),
    "ca": ("Catalan", "cat_Latn"),
    "cs": ("Czech", "ces_Latn"),
    "da": ("Danish", "dan_Latn"),
    "de": ("German", "deu_Latn"),
    "el": ("Greek", "ell_Grek"),
    "en": ("English", "eng_Latn"),
    "es": ("Spanish", "spa_Latn"),
    "fi": ("Finnish", "fin_Latn"),
    "fr": ("French", "fra_Latn"),
    "he": ("Hebrew", "heb_Hebr"),
    "hi": ("Hindi", "hin_Deva"),
    "hu": ("Hungarian", "hun_Latn"),
    "id": ("Indonesian", "ind_Latn"),
    "it": ("Italian", "ita_Latn"),
    "ja": ("Japanese", "jpn_Jpan"),
    "ko": ("Korean", "kor_Hang"),
    "nl": ("Dutch", "nld_Latn"),
    "pl": ("Polish", "pol_Latn"),
    "pt": ("Portuguese", "por_Latn"),
    "ro": ("Romanian", "ron_Latn"),
    "ru": ("Russian", "rus_Cyrl"),
    "sv": ("Swedish", "swe_Latn"),
    "ta": ("Tamil", "tam_Taml"),
    "th": ("Thai", "tha_Thai"),
    "tr": ("Turkish", "tur_Latn"),
    "uk": ("Ukrainian", "ukr_Cyrl"),
    "vi": ("Vietnamese", "vie_Latn"),
    "zh": ("Chinese", "zho_Hans"),
}
_FLORES_101 = {"ar": "ara", "zh": "zho_simpl"}
_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}


def translation_template(source: str, target: str) -> PromptTemplate:
    r"""The prompt of Sia et al. (2024) for two languages, by name, with the instruction.

    >>> template = translation_template("English", "French")
    >>> "".join(span.text for span in template.render([Example("a", "b")], "c"))
    'Translate English to French:\nQ:aA:b \nQ:cA:'
    """
    return PromptTemplate(
        instruction=f"Translate {source} to {target}:",
        source_prefix="Q:",
        target_prefix="A:",
        separator=" \n",
        stop=("Q:",),
        instruction_separator="\n",
    )


def bare_translation_template() -> PromptTemplate:
    r"""Their prompt without instruction, where an answer stands on a line of its own.

    >>> template = bare_translation_template()
    >>> "".join(span.text for span in template.render([Example("a", "b")], "c"))
    'Q:a\nA:b \nQ:c\nA:'
    """
    template = translation_template("", "").without_instruction()
    return replace(template, target_prefix="\nA:")


def parallel_examples(source: Path, target: Path) -> tuple[Example, ...]:
    """The line pairs of two parallel files.

    Raises:
        TaskError: if they are missing, not UTF-8, of unequal length, or hold an empty line.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise TaskError(
            f"{source} has {len(sources)} lines, but {target} has {len(targets)}: parallel files "
            "must have as many"
        )
    return _pairs(sources, targets, f"{source} and {target}")


@checked(TaskError)
def parallel_task(
    train: tuple[str | Path, str | Path],
    test: tuple[str | Path, str | Path],
    *,
    name: str = "translation",
    template: PromptTemplate | None = None,
    metric: str = "bleu",
) -> Task:
    """A translation task from two pairs of parallel files, (sources, targets) each.

    Args:
        train: the bank from which examples are drawn.
        test: the queries.
        template: the layout; the default is that of `load_task`.

    Raises:
        TaskError: as `parallel_examples` does.
    """
    return Task(
        name=name,
        train=parallel_examples(Path(train[0]), Path(train[1])),
        test=parallel_examples(Path(test[0]), Path(test[1])),
        template=template or replace(DEFAULT_TEMPLATE, stop=("\n",)),
        metric=metric,
    )


@checked(TaskError)
def flores_task(direction: str, path: str | Path | None = None) -> Task:
    """FLORES as Sia et al. (2024) use it: devtest is the test set, the last 200 dev lines the bank.

    Args:
        direction: two languages by their ISO 639-1 codes, such as "en-fr".
        path: a directory in the layout of FLORES-101 or FLORES-200 (``dev/`` and ``devtest/`` with
            a file for each language); ``None`` loads FLORES+ from the Hugging Face Hub.

    Raises:
        TaskError: an unknown direction, a missing or malformed file, or no download.
    """
    codes = parse_direction(direction)
    splits: dict[str, tuple[Example, ...]] = {}
    for split in ("dev", "devtest"):
        lines = [
            _hub_lines(code, split) if path is None else _local_lines(Path(path), code, split)
            for code in codes
        ]
        if len(lines[0]) != len(lines[1]):
            raise TaskError(
                f"FLORES {split} has {len(lines[0])} lines of {codes[0]}, but {len(lines[1])} of "
                f"{codes[1]}: they must be parallel"
            )
        splits[split] = _pairs(lines[0], lines[1], f"FLORES {split}")
    template = translation_template(*(_LANGUAGES[code][0] for code in codes))
    tokenizer = _TOKENIZERS.get(codes[1])
    return Task(
        name=f"flores/{direction}",
        train=splits["dev"][-N_BANK:],
        test=splits["devtest"],
        template=template,
        metric=f"bleu:{tokenizer}" if tokenizer else "bleu",
        bare_template=bare_translation_template(),
    )


def parse_direction(direction: str) -> tuple[str, str]:
    """The two language codes of a direction.

    Raises:
        TaskError: if it does not name two different known languages.
    """
    source, _, target = direction.partition("-")
    if source not in _LANGUAGES or target not in _LANGUAGES or source == target:
        raise TaskError(
            f"the direction is {direction!r}: expected two of {', '.join(_LANGUAGES)}, such as "
            "'en-fr'"
        )
    return source, target


def _local_lines(path: Path, code: str, split: str) -> list[str]:
    flores_200 = _LANGUAGES[code][1]
    names = [flores_200, _FLORES_101.get(code, flores_200[:3])]
    candidates = [path / split / f"{name}.{split}" for name in names]
    for candidate in candidates:
        if candidate.is_file():
            return read_lines(candidate)
    raise TaskError(
        f"there is neither {candidates[0]} nor {candidates[1]}: give the directory of an unpacked "
        "FLORES-101 or FLORES-200 archive, the one that holds dev and devtest"
    )


def _hub_lines(code: str, split: str) -> list[str]:
    rows = read_dataset(FLORES_PLUS, split, ["id", "text"], _LANGUAGES[code][1])
    return [str(row["text"]) for row in sorted(rows, key=lambda row: int(row["id"]))]


def _pairs(sources: Sequence[str], targets: Sequence[str], where: str) -> tuple[Example, ...]:
    for number, pair in enumerate(zip(sources, targets, strict=True), start=1):
        if not all(text.strip() for text in pair):
            raise TaskError(f"{where}, line {number} is empty: expected text on both sides")
    if not sources:
        raise TaskError(f"{where}: there are no lines, expected at least one")
    return tuple(Example(s, t) for s, t in zip(sources, targets, strict=True))
