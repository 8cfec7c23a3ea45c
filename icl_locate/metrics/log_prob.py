"""The target's log-probability, which is read off the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from numpy import ndarray

from icl_locate.errors import TaskError
from icl_locate.metrics.base import Statistics, mean_of, mean_statistics
from icl_locate.metrics.readouts import TARGET_LOG_PROB, Answers, LabelChoice, Readout


@dataclass(frozen=True)
class MeanLogProb:
    """The mean over items of the target's log-probability, as `score_targets` gives it."""

    name: str = "log_prob"
    signature: str = "log_prob|base:e|sum:target tokens|mean:items"
    readout: ClassVar[Readout] = TARGET_LOG_PROB
    is_mean: ClassVar[bool] = True
    n_columns: ClassVar[int] = 2

    def statistics(self, answers: Answers, targets: Sequence[str]) -> Statistics:  # noqa: ARG002
        """Columns: the item's log-probability, and 1 to count it.

        Raises:
            TaskError: if the answers are texts.
        """
        numbers = [answer for answer in answers if not isinstance(answer, (str, LabelChoice))]
        if len(numbers) < len(answers):
            raise TaskError(
                "log_prob is read off the model, not off an answer: use icl_locate.score_targets"
            )
        return mean_statistics([float(number) for number in numbers])

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The mean."""
        return mean_of(totals)
