"""How a run of a model is read: the value that a metric names as its ``readout``."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.arguments import ErrorKind, check_choice, check_items, refuse
from icl_locate.checks.signatures import check_fields, checked
from icl_locate.errors import TaskError


@dataclass(frozen=True)
class LabelChoice:
    """The label that calibration chooses, which is the answer, and the one without it."""

    label: str
    uncalibrated: str

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    def __str__(self) -> str:
        return self.label


Answers = Sequence[str] | Sequence[float] | Sequence[LabelChoice]
"""What a readout gives for each prompt, and what `Metric.statistics` takes."""


class Readout:
    """What is read off a run; who reads it is said in `icl_locate.engine.readout`.

    Attributes:
        generates: whether tokens are generated: there must be room for them.
        gives_text: whether answers are texts, not numbers.
        calibrates: whether answers are held against those to content-free inputs.
        content_free: these inputs, as far as they are known: prompts are run with each of them in
            the place of the query's source, too (`Prompts.content_free`).
    """

    generates: ClassVar[bool] = False
    gives_text: ClassVar[bool] = True
    calibrates: ClassVar[bool] = False
    content_free: tuple[str, ...] = ()

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


def _check_tables(name: str, value: Any, error: ErrorKind) -> list[list[list[float]]]:
    """Such rows for each of some inputs."""
    expected = "rows of log-probabilities for each content-free input"
    tables = check_items(name, value, expected, ordered=True, error=error)
    return [_check_rows(f"{name}[{i}]", rows, error) for i, rows in enumerate(tables)]


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
class CalibratedLabels(LabelLogProbs):
    """The label whose probability is highest in relation to that behind content-free inputs.

    Attributes:
        labels: what a query may be answered with.
        content_free: the inputs that say nothing.
    """

    content_free: tuple[str, ...] = ()
    calibrates: ClassVar[bool] = True

    def require(self) -> None:
        """Refuse a choice among fewer than two labels, or without content-free inputs.

        Raises:
            TaskError: saying what there is.
        """
        super().require()
        if not self.content_free:
            raise TaskError(
                "there are no content-free inputs: expected at least one; CalibratedLabelAccuracy "
                "draws those of a task by for_task"
            )

    @checked(TaskError, log_probs=_check_rows, content_free=_check_tables)
    def calibrate(
        self,
        log_probs: Sequence[Sequence[float]],
        content_free: Sequence[Sequence[Sequence[float]]],
    ) -> Float[ndarray, "prompt label"]:
        """The logarithms of calibrated probabilities, which add up to 1 behind each prompt.

        A label's probability among the labels, divided by its mean over the content-free inputs.

        Args:
            log_probs: of each label behind each prompt.
            content_free: the same for each input, with that in the place of the query's source.

        Raises:
            TaskError: if they are not of the same prompts and labels.
        """
        self.require()
        n_labels, n_texts = len(self.labels), len(self.content_free)
        tables = [log_probs, *content_free]
        alike = all(
            len(rows) == len(log_probs) and all(len(row) == n_labels for row in rows)
            for rows in tables
        )
        if not alike or len(content_free) != n_texts:
            raise TaskError(
                f"log_probs are {len(log_probs)} rows, and content_free {len(content_free)} tables "
                f"of such rows: expected {n_texts} tables, one for each content-free input, of as "
                f"many rows as log_probs, each with a number for each of {n_labels} labels"
            )
        own, *free = (
            _normalised(np.asarray(rows, dtype=np.float64).reshape(-1, n_labels)) for rows in tables
        )
        prior = np.logaddexp.reduce(free, axis=0)
        with np.errstate(invalid="ignore"):  # a label that is never possible stays so
            return _normalised(np.where(np.isneginf(own), own, own - prior))

    @checked(TaskError, log_probs=_check_rows, content_free=_check_tables)
    def choose_both(
        self,
        log_probs: Sequence[Sequence[float]],
        content_free: Sequence[Sequence[Sequence[float]]],
        prompts: Sequence[str],
    ) -> list[LabelChoice]:
        """The best label behind each prompt with calibration, and without.

        Equals are decided as `choose` does.
        """
        calibrated = self.choose(self.calibrate(log_probs, content_free).tolist(), prompts)
        pairs = zip(calibrated, self.choose(log_probs, prompts), strict=True)
        return [LabelChoice(*pair) for pair in pairs]


def _normalised(log_probs: Float[ndarray, "*batch label"]) -> Float[ndarray, "*batch label"]:
    """Logarithms of probabilities that add up to 1 over the labels; infinite ones may be there."""
    best = log_probs.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        below = np.where(log_probs == best, 0.0, log_probs - best)
    return np.asarray(below - np.log(np.exp(below).sum(axis=-1, keepdims=True)))


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
            "CalibratedLabels(...), NextToken(...)"
        )
        refuse("the metric's readout", found, expected, TaskError)
    return found
