"""How a run of a model is read: the value that a metric names as its ``readout``."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal, get_args

from icl_locate.checks.arguments import ErrorKind, check_choice, check_items, refuse
from icl_locate.checks.signatures import check_fields, checked
from icl_locate.errors import TaskError

Answers = Sequence[str] | Sequence[float]
"""What a readout gives for each prompt, and what `Metric.statistics` takes: texts or numbers."""


class Readout:
    """What is read off a run; who reads it is said in `icl_locate.engine.readout`.

    Attributes:
        generates: whether tokens are generated: there must be room for them.
        gives_text: whether answers are texts, not numbers.
    """

    generates: ClassVar[bool] = False
    gives_text: ClassVar[bool] = True

    def require(self) -> None:
        """Refuse what no run can be read for; asked before anything runs."""


@dataclass(frozen=True)
class GeneratedText(Readout):
    """The greedy answer up to a stop string."""

    generates: ClassVar[bool] = True


@dataclass(frozen=True)
class TargetLogProb(Readout):
    """The target's log-probability (natural, summed over its tokens): a number, no text."""

    gives_text: ClassVar[bool] = False


def _check_rows(name: str, value: Any, error: ErrorKind) -> list[list[float]]:
    """Rows of log-probabilities, which may be -inf."""
    expected = "a row of log-probabilities for each prompt"
    rows = [
        check_items(f"{name}[{i}]", row, expected, error=error)
        for i, row in enumerate(check_items(name, value, expected, error=error))
    ]
    if not all(isinstance(number, Real) for row in rows for number in row):
        refuse(name, value, expected, error)
    return rows


@dataclass(frozen=True)
class LabelLogProbs(Readout):
    """The label of the highest log-probability, summed over its tokens.

    Attributes:
        labels: what a query may be answered with.
    """

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    def require(self) -> None:
        """Refuse a choice among fewer than two labels.

        Raises:
            TaskError: saying which there are.
        """
        if len(self.labels) < 2:
            raise TaskError(
                f"the labels to choose among are {list(self.labels)}: expected two or more; "
                "LabelAccuracy takes those of its task's examples by for_task or bound_to"
            )

    @checked(TaskError, log_probs=_check_rows)
    def choose(self, log_probs: Iterable[Sequence[float]], prompts: Iterable[str]) -> list[str]:
        """The best label behind each prompt.

        Equals, which a model in bfloat16 gives, are decided by a draw that depends on the prompt
        alone, so that no label gains by them.
        """
        self.require()
        rows, texts = list(log_probs), list(prompts)
        if len(rows) != len(texts) or any(len(row) != len(self.labels) for row in rows):
            raise TaskError(
                f"log_probs are {len(rows)} rows for {len(texts)} prompts and {len(self.labels)} "
                "labels: expected a row for each prompt, with a number for each label"
            )
        return [self._best(row, prompt) for row, prompt in zip(rows, texts, strict=True)]

    def _best(self, row: Sequence[float], prompt: str) -> str:
        best = [i for i, value in enumerate(row) if value == max(row)]
        place = random.Random(f"tie/{prompt}").choice(best) if len(best) > 1 else best[0]
        return self.labels[place]


@dataclass(frozen=True)
class BareLabels(LabelLogProbs):
    """The label whose last token, tokenised without the space before it, is the likeliest next one.

    What the code of Cho et al. (2025) reads. Where a label has several tokens, or another one with
    a space before it, that token is none that continues the prompt.
    """


FirstTokenKind = Literal["accuracy", "prob"]


@dataclass(frozen=True)
class NextToken(Readout):
    """The next token's distribution behind the prompt, where the target's first token stands in it.

    Attributes:
        reads: "accuracy": 1 if that is the likeliest token, else 0; "prob": its probability.
        answers: what a query may be answered with, where that is known.
    """

    reads: FirstTokenKind | str = "accuracy"
    answers: tuple[str, ...] = ()
    gives_text: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self, TaskError)
        check_choice("reads", self.reads, get_args(FirstTokenKind), error=TaskError)


GENERATED_TEXT, TARGET_LOG_PROB = GeneratedText(), TargetLogProb()


def readout_of(metric: object) -> Readout:
    """How a metric's runs are read; a metric that does not say takes generated text.

    Raises:
        TaskError: if it names something else.
    """
    found = getattr(metric, "readout", GENERATED_TEXT)
    if not isinstance(found, Readout):
        expected = (
            "one of icl_locate.metrics.GeneratedText(), TargetLogProb(), LabelLogProbs(...), "
            "NextToken(...)"
        )
        refuse("the metric's readout", found, expected, TaskError)
    return found
