"""Label accuracy: is the wanted label the most probable of all?"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar

from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.arguments import ErrorKind, check_items, refuse
from icl_locate.checks.signatures import check_fields, checked
from icl_locate.errors import TaskError
from icl_locate.metrics.base import Statistics, mean_of, mean_statistics, pair_texts
from icl_locate.prompts.template import Example


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
class LabelAccuracy:
    """The share of queries whose target is the label of the highest log-probability.

    Nothing is generated: each label is scored with all of its tokens (`score_labels`), and the best
    one is the answer. Equals, which a model in bfloat16 gives, are decided by a draw that depends
    on the prompt alone, so that no label gains by them.

    Attributes:
        labels: what a query may be answered with.
    """

    labels: tuple[str, ...] = ()
    name: str = "label_accuracy"
    n_columns: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    @property
    def signature(self) -> str:
        """The recipe."""
        return f"label_accuracy|labels:{','.join(self.labels)}|sum:label tokens|best:log_prob"

    @checked(TaskError)
    def bound_to(self, examples: Iterable[Example]) -> "LabelAccuracy":
        """The metric for a task with these examples: their targets are the labels.

        Raises:
            TaskError: if there are fewer than two labels.
        """
        labels = tuple(dict.fromkeys(example.target for example in examples))
        if len(labels) < 2:
            raise TaskError(
                f"the labels of the examples are {list(labels)}: label_accuracy chooses among two "
                "or more"
            )
        return replace(self, labels=labels)

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: whether the chosen label is the target, and 1 to count it."""
        return mean_statistics([float(a == t) for a, t in pair_texts(answers, targets)])

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The mean, in 0 to 1."""
        return mean_of(totals)

    @checked(TaskError, log_probs=_check_rows)
    def choose(self, log_probs: Iterable[Sequence[float]], prompts: Iterable[str]) -> list[str]:
        """The label of the highest log-probability behind each prompt."""
        rows, texts = list(log_probs), list(prompts)
        if len(rows) != len(texts) or any(len(row) != len(self.labels) for row in rows):
            raise TaskError(
                f"log_probs are {len(rows)} rows for {len(texts)} prompts and {len(self.labels)} "
                "labels: expected a row for each prompt, with a number for each label"
            )
        chosen = []
        for row, prompt in zip(rows, texts, strict=True):
            best = [i for i, value in enumerate(row) if value == max(row)]
            place = random.Random(f"tie/{prompt}").choice(best) if len(best) > 1 else best[0]
            chosen.append(self.labels[place])
        return chosen
