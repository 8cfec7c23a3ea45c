"""Label accuracy: is the wanted label the most probable of all?"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from numpy import ndarray

from icl_locate.errors import TaskError
from icl_locate.metrics.base import Statistics, mean_statistics
from icl_locate.prompts import Example


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

    @property
    def signature(self) -> str:
        """The recipe."""
        return f"label_accuracy|labels:{','.join(self.labels)}|sum:label tokens|best:log_prob"

    def bound_to(self, examples: Iterable[Example]) -> "LabelAccuracy":
        """The metric for a task with these examples: their targets are the labels.

        Raises:
            TaskError: if there are fewer than two labels.
        """
        labels = tuple(dict.fromkeys(example.target for example in examples))
        if len(labels) < 2:
            raise TaskError(
                f"the labels are {list(labels)}: label_accuracy chooses among two or more"
            )
        return replace(self, labels=labels)

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: whether the chosen label is the target, and 1 to count it."""
        return mean_statistics([float(a == t) for a, t in zip(answers, targets, strict=True)])

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The mean, in 0 to 1."""
        return float(totals[0] / totals[1])

    def choose(self, log_probs: Iterable[Sequence[float]], prompts: Iterable[str]) -> list[str]:
        """The label of the highest log-probability behind each prompt."""
        chosen = []
        for row, prompt in zip(log_probs, prompts, strict=True):
            best = [i for i, value in enumerate(row) if value == max(row)]
            place = random.Random(f"tie/{prompt}").choice(best) if len(best) > 1 else best[0]
            chosen.append(self.labels[place])
        return chosen
