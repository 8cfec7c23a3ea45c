"""The first token of a target, which is read off the distribution behind a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import ClassVar

from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.arguments import check_items, refuse
from icl_locate.checks.signatures import check_fields, checked
from icl_locate.errors import TaskError
from icl_locate.metrics.base import Statistics, mean_of, mean_statistics
from icl_locate.metrics.readouts import Answers, FirstTokenKind, NextToken
from icl_locate.metrics.traits import Asked

_SIGNATURES = {
    "accuracy": "first_token_accuracy|token:first of the target|best:logit|mean:items",
    "prob": "first_token_prob|token:first of the target|mean:items",
}


@dataclass(frozen=True)
class FirstToken:
    """How the next token's distribution behind a prompt meets the first token of the target.

    One pass a prompt, and nothing is generated: what Hendel et al. (2023) and Todd et al. (2024)
    read.

    Attributes:
        reads: "accuracy": the share of queries whose target begins with the likeliest next token;
            "prob": the probability of the token that the target begins with.
        answers: what a query may be answered with, where that is a choice of few: answers that
            begin with the same token are refused, since neither number could tell them apart.
    """

    reads: FirstTokenKind | str = "accuracy"
    answers: tuple[str, ...] = ()
    n_columns: ClassVar[int] = 2
    is_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    @property
    def name(self) -> str:
        """The metric's name."""
        return f"first_token_{self.reads}"

    @property
    def signature(self) -> str:
        """The recipe."""
        return _SIGNATURES[self.reads]

    @property
    def readout(self) -> NextToken:
        """The next token's distribution."""
        return NextToken(self.reads, self.answers)

    @checked(TaskError)
    def for_task(self, task: Asked, n_queries: int) -> "FirstToken":
        """The metric for a task: its targets are the answers, if they come back.

        They do where each of them, on average, is the target of two examples or more.
        """
        if self.answers:
            return self
        targets = [example.target for example in (*task.train, *task.queries(n_queries))]
        answers = tuple(dict.fromkeys(targets))
        return replace(self, answers=answers if 2 * len(answers) <= len(targets) else ())

    def statistics(self, answers: Answers, targets: Sequence[str]) -> Statistics:
        """Columns: the item's number, and 1 to count it.

        Raises:
            TaskError: if the answers are texts, or not as many as the targets.
        """
        numbers = check_items("answers", answers, "a list of numbers", error=TaskError)
        if any(isinstance(answer, str) for answer in numbers):
            raise TaskError(
                f"{self.name} is read off the model, not off an answer: use token_accuracy for "
                "texts"
            )
        if not all(isinstance(answer, Real) for answer in numbers):
            refuse("answers", answers, "a list of numbers", TaskError)
        texts = check_items("targets", targets, "a list of texts", error=TaskError)
        if not all(isinstance(text, str) for text in texts):
            refuse("targets", targets, "a list of texts", TaskError)
        if len(texts) != len(numbers):
            raise TaskError(
                f"there are {len(numbers)} answers and {len(targets)} targets: expected as many of "
                "both"
            )
        return mean_statistics(numbers)

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The mean, in 0 to 1."""
        return mean_of(totals)
