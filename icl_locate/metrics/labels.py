"""Label accuracy: is the wanted label the most probable of all?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.signatures import check_fields, checked
from icl_locate.errors import TaskError
from icl_locate.metrics.base import Statistics, mean_of, mean_statistics, pair_texts
from icl_locate.metrics.readouts import BareLabels, LabelLogProbs
from icl_locate.metrics.traits import Asked
from icl_locate.prompts.template import Example


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
    is_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    @property
    def signature(self) -> str:
        """The recipe."""
        return f"label_accuracy|labels:{','.join(self.labels)}|sum:label tokens|best:log_prob"

    @property
    def readout(self) -> LabelLogProbs:
        """The labels' log-probabilities."""
        return LabelLogProbs(self.labels)

    @checked(TaskError)
    def for_task(self, task: Asked, n_queries: int) -> "LabelAccuracy":  # noqa: ARG002
        """The metric for a task: its examples' targets are the labels, unless it has some.

        Raises:
            TaskError: if there are fewer than two labels.
        """
        return self if self.labels else self.bound_to(task.train)

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

    def choose(self, log_probs: Iterable[Sequence[float]], prompts: Iterable[str]) -> list[str]:
        """The label of the highest log-probability behind each prompt."""
        return self.readout.choose(log_probs, prompts)


@dataclass(frozen=True)
class BareLabelAccuracy(LabelAccuracy):
    """The share of queries whose target has the likeliest bare last token (`BareLabels`).

    As the code of Cho et al. (2025) reads labels; `LabelAccuracy` reads all of their tokens, as
    they continue the prompt.

    Attributes:
        labels: what a query may be answered with.
    """

    name: str = "bare_label_accuracy"

    @property
    def signature(self) -> str:
        """The recipe."""
        return f"bare_label_accuracy|labels:{','.join(self.labels)}|last token, bare|best:logit"

    @property
    def readout(self) -> BareLabels:
        """The labels' bare last tokens."""
        return BareLabels(self.labels)
