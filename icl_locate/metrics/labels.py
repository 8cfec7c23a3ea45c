"""Label accuracy: is the wanted label the most probable of all?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from numpy import ndarray

from icl_locate.errors import TaskError
from icl_locate.metrics.base import Statistics, mean_statistics
from icl_locate.prompts import Example


@dataclass(frozen=True)
class LabelAccuracy:
    """The share of queries whose target is the label of the highest log-probability.

    Nothing is generated: each label is scored with all of its tokens (`score_labels`), and the best
    one is the answer; of equals, the first.

    Attributes:
        labels: what a query may be answered with.
    """

    labels: tuple[str, ...] = ()
    name: str = "label_accuracy"

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

    def choose(self, log_probs: Iterable[Sequence[float]]) -> list[str]:
        """The label of the highest log-probability for each query."""
        return [self.labels[max(range(len(row)), key=row.__getitem__)] for row in log_probs]
