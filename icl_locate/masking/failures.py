"""How answers fail, beside how often: empty, copied, in the wrong language, or no label at all."""

import re
from collections.abc import Callable, Collection
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.masking.result import SweepResult
from icl_locate.metrics import gives_text

Failure = Callable[[str, str], bool]


@checked(ResultError)
def failure_rates(
    result: SweepResult, *, labels: Collection[str] | None = None, language: str | None = None
) -> dict[str, Float[Tensor, "condition layer seed"]]:
    """The share of answers that fail in each way, in 0 to 1.

    "empty": nothing but white space. "copy": the source again, white space and case aside. "wrong
    language": another language than ``language``. "no label": none of ``labels``: 1 minus the task
    recognition ratio of Sia et al. (2024).

    Args:
        labels: the answers that a classification task allows; ``None`` leaves "no label" out.
        language: the ISO 639-1 code of the language that answers should be in, such as "fr"; takes
            ``pip install icl-locate[language]``. ``None`` leaves "wrong language" out.

    Raises:
        ResultError: if the result holds no texts (its metric is a log-probability), the language
            is unknown, or the detector is not installed.
    """
    if not has_answers(result):
        raise ResultError(
            "the result holds no answers: failures are counted on generated text, so sweep with "
            f"another metric than {result.metric}"
        )
    failures: dict[str, Failure] = {"empty": is_empty, "copy": is_copy}
    if language is not None:
        failures["wrong language"] = _not_in(language)
    if labels is not None:
        allowed = {label.strip() for label in labels}
        failures["no label"] = lambda answer, source: answer.strip() not in allowed  # noqa: ARG005
    return {
        name: torch.tensor(
            [
                [
                    [sum(map(fails, answers, result.sources)) / len(answers) for answers in by_seed]
                    for by_seed in by_layer
                ]
                for by_layer in result.texts
            ],
            dtype=torch.float64,
        )
        for name, fails in failures.items()
    }


def has_answers(result: SweepResult) -> bool:
    """Whether a result holds answers: with a metric that is read off probabilities it does not."""
    known = result.provenance.get("gives_text", gives_text(result.metric, result.custom_metric))
    return bool(known and result.texts)


def is_empty(answer: str, source: str) -> bool:  # noqa: ARG001
    """Whether an answer holds nothing."""
    return not answer.strip()


def is_copy(answer: str, source: str) -> bool:
    """Whether an answer is its source, white space and case aside.

    >>> is_copy(" The  cat.", "the cat.")
    True
    """
    return answer.lower().split() == source.lower().split() != []


def _not_in(language: str) -> Failure:
    expected = "an ISO 639-1 code such as 'fr' or 'de'"
    if not re.fullmatch("[a-z]{2}", language):  # before the detector loads
        refuse("language", language, expected, ResultError)
    try:
        import py3langid
    except ImportError as error:
        raise ResultError(
            "to tell languages apart takes a detector: pip install 'icl-locate[language]'"
        ) from error
    known = {name for name, _ in py3langid.rank("known")}
    if language not in known:
        refuse("language", language, expected, ResultError)

    @lru_cache(maxsize=100_000)
    def detected(text: str) -> str:
        return str(py3langid.classify(text)[0])

    def fails(answer: str, source: str) -> bool:  # noqa: ARG001
        return bool(answer.strip()) and detected(answer) != language

    return fails
