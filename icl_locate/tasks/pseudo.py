"""The embedded model's own tasks: translation into its pseudo-languages and into Python."""

import random

from icl_locate.embedded.languages import (
    LANGUAGES,
    MAX_WORDS,
    MIN_WORDS,
    PYTHON,
    UNTAUGHT,
    Language,
    sample_sentence,
)
from icl_locate.errors import TaskError
from icl_locate.prompts.programs import CodeCheck
from icl_locate.prompts.template import Example, PromptTemplate
from icl_locate.tasks.task import Task

N_EXAMPLES = 512
TRANSLATION, CODE = "pseudo-translation", "pseudo-python"
_INPUTS: tuple[list[int], ...] = ([3, -1, 2], [5, 0, -4, 7, 7, 1], [-2], [])
DEFAULT_LANGUAGE = LANGUAGES[1].name


def pseudo_template(language: str) -> PromptTemplate:
    """The layout that the embedded model was trained on."""
    return PromptTemplate(f"Translate English to {language}:", "Q:", "A:", "\n", stop=("\n",))


def pseudo_task(name: str) -> Task:
    """The task of a name: pseudo-translation, pseudo-translation/LANGUAGE or pseudo-python.

    Train and test sentences are disjoint, and the embedded model was trained on none of the latter;
    "pseudo-translation/Novel" is a language that it was not trained on at all.

    Raises:
        TaskError: if there is no such language.
    """
    wanted = PYTHON.name if name == CODE else name.partition("/")[2] or DEFAULT_LANGUAGE
    by_name = {language.name: language for language in (*LANGUAGES, UNTAUGHT)}
    if wanted not in by_name:
        raise TaskError(f"unknown pseudo-language {wanted!r}: expected one of {', '.join(by_name)}")
    language = by_name[wanted]
    return Task(
        name=name,
        train=_pairs(language, held_out=False),
        test=_pairs(language, held_out=True),
        template=pseudo_template(language.name),
        metric="bleu",
    )


def _pairs(language: Language, *, held_out: bool) -> tuple[Example, ...]:
    generator = random.Random(f"sentences/{held_out}")
    sentences: dict[tuple[str, ...], None] = {}
    while len(sentences) < N_EXAMPLES:
        n_words = generator.randint(MIN_WORDS, MAX_WORDS)
        sentences[sample_sentence(generator, n_words, held_out=held_out)] = None
    return tuple(
        _example(" ".join(words), " ".join(language.translate(words)), is_code=language is PYTHON)
        for words in sentences
    )


def _example(source: str, target: str, *, is_code: bool) -> Example:
    if not is_code:
        return Example(source, target)
    tests = "\n".join(f"assert run({x!r}) == {_run(target, x)!r}" for x in _INPUTS)
    return Example(source, target, CodeCheck(tests, form="statements"))


def _run(target: str, x: list[int]) -> list[int]:
    """What the statements of a target, which are this project's own, do to a list."""
    space: dict[str, list[int]] = {"x": list(x)}
    exec(target, {}, space)  # noqa: S102
    return space["x"]
