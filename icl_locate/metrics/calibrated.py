"""Label accuracy without the labels' bias: probabilities held against those of empty queries."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.arguments import check_items, refuse
from icl_locate.checks.signatures import check_fields, checked
from icl_locate.errors import TaskError
from icl_locate.metrics.base import Statistics, check_totals, pair_texts
from icl_locate.metrics.labels import LabelAccuracy
from icl_locate.metrics.readouts import Answers, CalibratedLabels, LabelChoice
from icl_locate.metrics.traits import Asked
from icl_locate.prompts.template import Example

Calibration = Literal["contextual", "domain"]
_NOT_AVAILABLE = "N/A"
_MARK = "|calibrated:"


@dataclass(frozen=True)
class CalibratedLabelAccuracy:
    """The share of queries whose target is the best label once the labels' bias is taken out.

    Where the context vanishes, a model answers by what label it likes best, and accuracy says how
    often that is right. Here each label's probability among the labels is divided by its mean over
    content-free inputs, each in the place of the query's source, behind the same examples and under
    the same intervention. The accuracy without this stands beside it (`Measured.uncalibrated`).

    Zhao et al. (2021): "contextual"; Fei et al. (2023): "domain".

    Attributes:
        labels: what a query may be answered with; none: `for_task` takes those of the examples.
        kind: "contextual": the content-free input is "N/A"; "domain": inputs are random words of
            the sources of ``task.train`` (split at white space), as many as a source has on
            average, which `for_task` draws.
        texts: other content-free inputs than these.
        n_texts: how many inputs are drawn.
        seed: of their own generator.

    Raises:
        TaskError: if there are no texts, or one is empty.
    """

    labels: tuple[str, ...] = ()
    kind: Calibration | str = "contextual"
    texts: tuple[str, ...] | None = None
    n_texts: int = 20
    seed: int = 0
    n_columns: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_fields(self, TaskError)
        if self.texts is None:
            return
        if not self.texts or not all(text.strip() for text in self.texts):
            refuse("texts", self.texts, "one or more texts, none of them empty", TaskError)

    @property
    def name(self) -> str:
        """The metric's name."""
        return f"label_accuracy_{self.kind}"

    @property
    def signature(self) -> str:
        """The recipe, which begins with that of the accuracy without calibration."""
        texts = self.readout.content_free
        if self.kind == "contextual":
            said = ",".join(map(repr, texts))
        else:
            said = f"{len(texts) or self.n_texts} texts|seed:{self.seed}"
            said += f"|sha256:{sha256(repr(texts).encode()).hexdigest()[:12]}" if texts else ""
        prior = f"{self.kind}|content_free:{said}|prior:mean probability"
        return f"{LabelAccuracy(self.labels).signature}{_MARK}{prior}"

    @property
    def readout(self) -> CalibratedLabels:
        """The labels' log-probabilities, those behind content-free inputs with them."""
        default = (_NOT_AVAILABLE,) if self.kind == "contextual" else ()
        return CalibratedLabels(self.labels, default if self.texts is None else self.texts)

    @checked(TaskError)
    def for_task(self, task: Asked, n_queries: int) -> "CalibratedLabelAccuracy":
        """The metric for a task, with its labels and content-free inputs, unless it has some.

        Raises:
            TaskError: if there are fewer than two labels, or no words to draw.
        """
        labels = LabelAccuracy(self.labels).for_task(task, n_queries).labels
        texts = self.texts
        if self.kind == "domain" and texts is None:
            texts = domain_texts(task.train, self.n_texts, self.seed)
        return replace(self, labels=labels, texts=texts)

    def statistics(self, answers: Answers, targets: Sequence[str]) -> Statistics:
        """Columns: whether the calibrated choice is the target, whether the raw one is, and 1.

        Raises:
            TaskError: if the answers are no choices, or not as many as the targets.
        """
        choices = check_items("answers", answers, "a list of LabelChoice", error=TaskError)
        if not all(isinstance(choice, LabelChoice) for choice in choices):
            expected = "a list of LabelChoice, as CalibratedLabels gives them"
            refuse("answers", answers, expected, TaskError, "label_accuracy takes texts")
        pairs = pair_texts([choice.label for choice in choices], targets)
        found = [
            (float(label == target), float(choice.uncalibrated == target), 1.0)
            for choice, (label, target) in zip(choices, pairs, strict=True)
        ]
        return np.array(found, dtype=np.float64).reshape(len(found), self.n_columns)

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The mean with calibration, in 0 to 1."""
        right, _, count = check_totals(totals, self.n_columns)
        return float(right / count)

    def scores(self, totals: Float[ndarray, "*cell stat"]) -> Float[ndarray, "*cell"]:
        """The same of many rows."""
        rows = check_totals(totals, self.n_columns, many=True)
        return np.asarray(rows[..., 0] / rows[..., 2], dtype=np.float64)


@checked(TaskError)
def domain_texts(examples: Iterable[Example], n_texts: int = 20, seed: int = 0) -> tuple[str, ...]:
    """Texts of random words of examples' sources, each as long as a source is on average.

    A word that is frequent in the sources is as frequent here.

    Raises:
        TaskError: if there are no words.
    """
    sources = [example.source.split() for example in examples]
    words = [word for source in sources for word in source]
    if not words:
        raise TaskError(
            "there are no words to draw content-free inputs from: label_accuracy_domain takes "
            "those of task.train; give the task examples, or use label_accuracy_contextual"
        )
    length = max(1, round(len(words) / len(sources)))
    generator = random.Random(f"content-free/{seed}")
    return tuple(" ".join(generator.choices(words, k=length)) for _ in range(n_texts))


@checked(TaskError)
def uncalibrated_signature(signature: str) -> str:
    """The signature of the label accuracy beside a calibrated one."""
    return signature.partition(_MARK)[0]
