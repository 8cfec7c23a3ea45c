"""Prompts as text: examples, templates, and which examples a query is shown."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from icl_locate._types import Part, Segment
from icl_locate.checks.signatures import check_fields, checked
from icl_locate.errors import PromptError
from icl_locate.prompts.programs import CodeCheck

Choice = Literal["random", "balanced", "disjoint"]
SpecialTokens = Literal["text", "refuse", "control"]

BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class Example:
    """One item of a task: a source (the input) and the target (the wanted output).

    ``check`` holds what an answer must pass where it is a program.
    """

    source: str
    target: str
    check: CodeCheck | None = None

    def __post_init__(self) -> None:
        check_fields(self, PromptError)


@dataclass(frozen=True)
class Span:
    """A stretch of a prompt's text with the segment, part and shot that it belongs to.

    ``shot`` counts the examples from 1; it is 0 outside the examples.
    """

    text: str
    segment: Segment
    part: Part = Part.NONE
    shot: int = 0


@dataclass(frozen=True)
class PromptTemplate:
    """How instruction, examples and query are laid out as text.

    The prompt is ``instruction + separator``, then ``source_prefix + source + target_prefix +
    target + separator`` for each example, then ``source_prefix + source + target_prefix`` for the
    query. With no instruction (``None``) the first part is left out.

    Spaces at the end of ``target_prefix`` open the answer: the query ends before them, since the
    tokenizers of GPT-2, Llama and most others make one token of a word and the space before it.

    Attributes:
        stop: strings that end a generated answer; ``None`` means the next source prefix, and the
            blank line if the separator holds one.
        instruction_separator: what stands after the instruction; ``None`` means the separator.
        special_tokens: what a source or target may do with the tokenizer's control tokens, such as
            ``</s>`` or ``<|endoftext|>``: with "text" they are encoded as the characters that they
            are, or refused where the tokenizer cannot; with "refuse" they are refused; with
            "control" they act. The template's own texts, a chat's turns for instance, always may.

    Raises:
        PromptError: if a part is no text, a stop string is empty, or ``special_tokens`` none of
            these.

    >>> template = PromptTemplate("Add one:", "Q:", "A:", "; ")
    >>> "".join(span.text for span in template.render([Example("1", "2")], "5"))
    'Add one:; Q:1A:2; Q:5A:'
    """

    instruction: str | None = None
    source_prefix: str = "Q:"
    target_prefix: str = "A:"
    separator: str = "\n"
    stop: tuple[str, ...] | None = None
    instruction_separator: str | None = None
    special_tokens: SpecialTokens | str = "text"

    def __post_init__(self) -> None:
        check_fields(self, PromptError)
        if "" in (self.stop or ()):
            raise PromptError("stop holds an empty string: it would end every answer at once")

    @property
    def stops(self) -> tuple[str, ...]:
        """What ends an answer: ``stop``, else source prefix and blank line, else the separator."""
        if self.stop is not None:
            return self.stop
        found = self.source_prefix.strip(), BLANK_LINE if BLANK_LINE in self.separator else ""
        return tuple(s for s in found if s) or tuple(s for s in (self.separator,) if s)

    @property
    def cue(self) -> str:
        """What the query ends in: the target prefix without the spaces at its end."""
        return self.target_prefix.rstrip(" ")

    @checked(PromptError)
    def answer(self, target: str) -> str:
        """A target as it continues a prompt: behind the spaces that the target prefix ends in."""
        return self.target_prefix[len(self.cue) :] + target

    def without_instruction(self) -> "PromptTemplate":
        """The same layout with no instruction in the prompt."""
        return replace(self, instruction=None)

    @checked(PromptError)
    def render(self, examples: Sequence[Example], query: str) -> list[Span]:
        """Lay out one prompt as consecutive spans; a separator belongs to what stands before it."""
        spans: list[Span] = []
        if self.instruction is not None:
            after = self.instruction_separator
            after = self.separator if after is None else after
            spans.append(Span(self.instruction + after, Segment.INSTRUCTIONS))
        for shot, example in enumerate(examples, start=1):
            pieces = (
                (self.source_prefix, Part.DELIMITER),
                (example.source, Part.SOURCE),
                (self.cue, Part.DELIMITER),
                (self.answer(example.target), Part.TARGET),
                (self.separator, Part.DELIMITER),
            )
            spans += [Span(text, Segment.EXAMPLES, part, shot) for text, part in pieces]
        spans += [
            Span(self.source_prefix, Segment.QUERY, Part.DELIMITER),
            Span(query, Segment.QUERY, Part.SOURCE),
            Span(self.cue, Segment.QUERY, Part.DELIMITER),
        ]
        return [span for span in spans if span.text]


def choose_examples(
    query: Example,
    examples: Sequence[Example],
    n_shots: int,
    *,
    seed: int = 0,
    choice: Choice | str = "random",
) -> list[Example]:
    """Draw the examples that one query is shown; never the query itself.

    The draw depends on ``seed`` and the query's source alone, so the same query sees the same
    examples in whatever batch it stands.

    Args:
        choice: "random" draws without replacement from all examples; "balanced" gives each
            distinct target ``n_shots // n_targets`` examples, draws the remainder at random and
            shuffles; "disjoint" does the same with the examples that share no word with the query.

    Raises:
        PromptError: if there are fewer examples than shots, or ``n_shots`` is negative.
    """
    if n_shots < 0:
        raise PromptError(f"n_shots is {n_shots}: expected 0 or more")
    if n_shots == 0:
        return []
    generator = random.Random(f"{seed}/{query.source}")
    candidates = [example for example in examples if example.source != query.source]
    if choice == "disjoint":
        words = set(query.source.split())
        candidates = [example for example in candidates if words.isdisjoint(example.source.split())]
    if len(candidates) < n_shots:
        raise PromptError(
            f"n_shots is {n_shots}, but only {len(candidates)} of the {len(examples)} examples "
            "differ from the query (and share no word with it, if disjoint): give more examples or "
            "ask for fewer shots"
        )
    match choice:
        case "random":
            return generator.sample(candidates, n_shots)
        case "balanced" | "disjoint":
            return _choose_balanced(generator, candidates, n_shots)
        case _:
            raise PromptError(f"choice is {choice!r}: expected 'random', 'balanced', 'disjoint'")


def _choose_balanced(
    generator: random.Random, candidates: Sequence[Example], n_shots: int
) -> list[Example]:
    by_target: defaultdict[str, list[Example]] = defaultdict(list)
    for example in candidates:
        by_target[example.target].append(example)
    quota = n_shots // len(by_target)
    chosen: list[Example] = []
    rest: list[Example] = []
    for group in by_target.values():
        shuffled = generator.sample(group, len(group))
        chosen += shuffled[:quota]
        rest += shuffled[quota:]
    chosen += generator.sample(rest, n_shots - len(chosen))
    generator.shuffle(chosen)
    return chosen
