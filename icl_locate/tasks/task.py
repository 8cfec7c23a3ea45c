"""What a task is."""

from dataclasses import dataclass

from icl_locate.prompts import Example, PromptTemplate


@dataclass(frozen=True)
class Task:
    """A task for in-context learning.

    Attributes:
        name: its label in results and figures.
        train: the bank from which the examples of a prompt are drawn.
        test: the queries. A query never stands among its own examples, so the two may overlap.
        template: how a prompt is laid out, instruction included.
        metric: the metric's name that a sweep uses unless told otherwise.
    """

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    template: PromptTemplate
    metric: str = "exact_match"
