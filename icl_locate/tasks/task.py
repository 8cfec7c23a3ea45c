"""What a task is."""

from dataclasses import dataclass

from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import check_fields, checked
from icl_locate.errors import TaskError
from icl_locate.prompts.template import Choice, Example, PromptTemplate

# the query ends in "A:": the space behind it belongs to the answer's first word
DEFAULT_TEMPLATE = PromptTemplate(source_prefix="Q: ", target_prefix="\nA: ", separator="\n\n")


@short_repr("name", "train", "test", "metric", "template")
@dataclass(frozen=True)
class Task:
    """A task for in-context learning.

    Attributes:
        name: its label in results and figures.
        train: the bank from which the examples of a prompt are drawn.
        test: the queries. A query never stands among its own examples, so the two may overlap.
        template: how a prompt is laid out, instruction included.
        metric: the metric's name that a sweep uses unless told otherwise.
        bare_template: how a prompt without instruction is laid out; ``None`` means ``template``
            without its instruction.
        choice: how examples are drawn unless told otherwise.
    """

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    template: PromptTemplate
    metric: str = "exact_match"
    bare_template: PromptTemplate | None = None
    choice: Choice | str = "random"

    def __post_init__(self) -> None:
        check_fields(self, TaskError)

    @checked(TaskError)
    def queries(self, n_queries: int) -> tuple[Example, ...]:
        """The first so many queries.

        Raises:
            TaskError: if there are not so many.
        """
        if n_queries > len(self.test):
            raise TaskError(
                f"n_queries is {n_queries}, but the task {self.name!r} has {len(self.test)} "
                f"queries: expected 1 to {len(self.test)}"
            )
        return self.test[:n_queries]

    @checked(TaskError)
    def template_for(self, *, instruction: bool) -> PromptTemplate:
        """The layout with the instruction, or without one."""
        if instruction:
            return self.template
        return self.bare_template or self.template.without_instruction()
