"""What a task is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from icl_locate._types import Segment
from icl_locate.checks.arguments import LAST_SEED, check_counts, check_type
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, check_fields, checked, whole
from icl_locate.errors import TaskError
from icl_locate.prompts.template import Choice, Example, PromptTemplate

if TYPE_CHECKING:
    from icl_locate.prompts.tokens import Prompts, TokenizedModel

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
        prompts: of a task made by `from_prompts`, its prompts; ``None`` where they are built.
    """

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    template: PromptTemplate
    metric: str = "exact_match"
    bare_template: PromptTemplate | None = None
    choice: Choice | str = "random"
    prompts: Any = field(default=None, compare=False)  # their module brings torch

    def __post_init__(self) -> None:
        check_fields(self, TaskError)
        if self.prompts is None:
            return
        _check_prompts(self.prompts)
        if self.train or self.test != _queries_of(self.prompts):
            raise TaskError(
                "a task of given prompts has their queries alone, and no examples to draw from: "
                "make it with Task.from_prompts, and leave train and test as they are"
            )

    @classmethod
    @checked(TaskError, prompts=anything)
    def from_prompts(
        cls, prompts: "Prompts", *, name: str = "own prompts", metric: str | None = None
    ) -> "Task":
        """A task whose queries are given prompts, each with its own context.

        There are no examples to draw and no layout to choose: ``n_shots``, seeds, ``choice`` and
        ``prepend_bos`` do not act, and prompts hold an instruction as their segments say.

        Args:
            prompts: of `Prompts.from_tokens` or `build_prompts`.
            metric: ``None`` means "exact_match", or "token_accuracy" where texts are token ids.

        Raises:
            TaskError: if there are none.
        """
        _check_prompts(prompts)
        return cls(
            name=name,
            train=(),
            test=_queries_of(prompts),
            template=replace(prompts.template, instruction=_instruction_of(prompts)),
            metric=metric or ("exact_match" if prompts.as_text else "token_accuracy"),
            prompts=prompts,
        )

    @checked(TaskError, model=anything, seed=whole(-LAST_SEED, LAST_SEED))
    def build(
        self,
        model: "TokenizedModel",
        *,
        n_queries: int,
        n_shots: int,
        instruction: bool,
        seed: int,
        choice: str,
        prepend_bos: bool | None,
        queries: Sequence[Example] | None = None,
        shots: Sequence[Sequence[Example]] | None = None,
    ) -> "Prompts":
        """The prompts of the first queries, for a model: built, or those that were given.

        Args:
            instruction: whether they hold the task's instruction.
            queries: others to build prompts of, such as examples to learn from.
            n_queries, n_shots, seed, choice, prepend_bos, shots: as `build_prompts` says; of these
                only ``n_queries`` acts on given prompts.

        Raises:
            TaskError: too few queries; of given prompts: other queries or shots, or another
                instruction than they hold.
            PromptError: as `build_prompts` does, or if given prompts do not fit the model.
        """
        from icl_locate.prompts.tokens import build_prompts, check_prompts

        if self.prompts is None:
            return build_prompts(
                model,
                self.queries(n_queries) if queries is None else queries,
                examples=self.train,
                n_shots=n_shots,
                template=self.template_for(instruction=instruction),
                seed=seed,
                choice=choice,
                prepend_bos=prepend_bos,
                shots=shots,
            )
        if queries is not None or shots is not None:
            raise TaskError(
                f"{'shots' if queries is None else 'queries'} are given, but the task "
                f"{self.name!r} has prompts of its own, and no layout to make others: use a task "
                "with examples (icl_locate.load_task)"
            )
        if instruction not in self.instructed:
            has = "no instruction" if instruction else "an instruction"
            raise TaskError(
                f"instruction is {instruction}, but the prompts of the task {self.name!r} hold "
                f"{has}: choose what their segments allow, such as a Condition with "
                f"instruction={not instruction}"
            )
        found: Prompts = self.prompts[: len(self.queries(n_queries))]
        check_prompts(model, found)
        return found

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

    @property
    def instructed(self) -> frozenset[bool]:
        """Which prompts there are: with the instruction (True), without one (False), or both."""
        has = self.template.instruction is not None
        return frozenset({has} if self.prompts is not None else {has, False})

    @checked(TaskError)
    def shots_of(self, n_shots: int) -> int:
        """The examples in a prompt: as many as are asked for, or as given prompts hold.

        Of given prompts it is the highest number among ``prompts.shots``; where these say nothing
        of tokens that are examples, 1.
        """
        if self.prompts is None:
            return n_shots
        some = bool((self.prompts.segments == Segment.EXAMPLES).any())
        return max(int(self.prompts.shots.max()), int(some))

    @checked(TaskError)
    def template_for(self, *, instruction: bool) -> PromptTemplate:
        """The layout with the instruction, or without one."""
        if instruction:
            return self.template
        return self.bare_template or self.template.without_instruction()


def _check_prompts(prompts: Any) -> None:
    from icl_locate.prompts.batch import Prompts

    hint = "Prompts.from_tokens and build_prompts make them"
    check_type("prompts", prompts, Prompts, expected="Prompts", hint=hint, error=TaskError)
    if not len(prompts):
        raise TaskError("prompts are empty: expected at least one")


def _queries_of(prompts: "Prompts") -> tuple[Example, ...]:
    """Given prompts' sources and targets."""
    pairs = zip(prompts.sources, prompts.targets, strict=True)
    return tuple(Example(source, target) for source, target in pairs)


def _instruction_of(prompts: "Prompts") -> str | None:
    """The instruction that prompts hold: ``None`` if none of them does."""
    if not bool((prompts.segments == Segment.INSTRUCTIONS).any()):
        return None
    return prompts.template.instruction or "(as the prompts say)"


def check_shots(task: Task, shots: int | Iterable[int]) -> tuple[int, ...]:
    """The numbers of shots: those that were asked for, or the one that given prompts have.

    Raises:
        TaskError: if there are none, or one stands there twice.
    """
    numbers = check_counts("shots", shots, least=0, error=TaskError)
    return tuple(dict.fromkeys(task.shots_of(n_shots) for n_shots in numbers))
