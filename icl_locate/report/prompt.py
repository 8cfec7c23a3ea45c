"""One whole prompt of a run, as it was laid out, with its segments marked."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from icl_locate.errors import IclLocateError
from icl_locate.masking.result import SweepResult
from icl_locate.prompts.template import Example, PromptTemplate, Span, choose_examples
from icl_locate.tasks import Task, load_task
from icl_locate.tasks.patterns import PATTERN_TASKS
from icl_locate.tasks.pseudo import CODE, TRANSLATION

_EXACT = "The prompt of the first query, with the examples of seed {seed}, as the model read it."
_PARTS = (
    "The prompt of the first query as its template lays it out. Which examples stood in it is not "
    "recorded: ‹…› holds their place."
)


def html_prompt(result: SweepResult) -> str:
    """The first query's prompt; nothing where its template is not recorded.

    Results of earlier versions do not hold its examples: of a task that comes with the package they
    are drawn again, of any other they are left open, since nothing is loaded to write a page.
    """
    template = _template(result)
    if template is None:
        return ""
    examples = _examples(result)
    says = _EXACT.format(seed=result.seeds[0])
    if examples is None:
        says = _PARTS
        n = result.provenance.get("n_shots", 0)
        shots = range(1, 1 + n) if isinstance(n, int) and n < 100 else ()
        examples = [Example(f"‹query of example {i}›", "‹its answer›") for i in shots]
    spans = template.render(examples, result.sources[0])
    text = "".join(_html_span(name, text) for name, text in _joined(spans))
    wanted = html.escape(template.answer(result.targets[0]))
    named = dict.fromkeys(name for name, _ in _joined(spans))
    legend = " ".join(_html_span(name, name.lower()) for name in (*named, "GENERATED"))
    legend = legend.replace("generated", "wanted answer")
    return (
        f"<p>{html.escape(says)} Marked: {legend}.</p>"
        f'<pre>{text}<span class="segment GENERATED">{wanted}</span></pre>'
    )


def _template(result: SweepResult) -> PromptTemplate | None:
    """The layout that most conditions have: with the instruction, if one holds it."""
    listed = result.provenance.get("conditions", ())
    instructed = any(one.get("instruction") for one in listed if isinstance(one, Mapping))
    recorded = result.provenance.get("template" if instructed else "bare_template")
    if not isinstance(recorded, Mapping):
        return None
    stop = recorded.get("stop")
    fields: dict[str, Any] = {**recorded, "stop": None if stop is None else tuple(stop)}
    try:
        return PromptTemplate(**fields)
    except (IclLocateError, TypeError):  # of another version
        return None


def _examples(result: SweepResult) -> Sequence[Example] | None:
    """The examples of the first query under the first seed, where they are known for sure."""
    recorded = result.provenance
    shown = recorded.get("first_shots")
    if isinstance(shown, list) and all(_is_pair(one) for one in shown):
        return [Example(*pair) for pair in shown]
    task, n_shots = _packaged(str(recorded.get("task"))), recorded.get("n_shots")
    if task is None or not isinstance(n_shots, int):
        return None
    queries = task.test[: len(result.sources)]
    asked = [(query.source, query.target) for query in queries]
    if asked != list(zip(result.sources, result.targets, strict=True)):
        return None
    choice = str(recorded.get("choice", task.choice))
    try:
        return choose_examples(queries[0], task.train, n_shots, seed=result.seeds[0], choice=choice)
    except IclLocateError:
        return None


def _is_pair(value: Any) -> bool:
    """Whether a value is a source and its target."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(t, str) for t in value)


def _packaged(name: str) -> Task | None:
    """A task of the package that needs no file and no network."""
    if name not in PATTERN_TASKS and name.partition("/")[0] not in (CODE, TRANSLATION):
        return None
    try:
        return load_task(name)
    except IclLocateError:
        return None


def _joined(spans: Sequence[Span]) -> list[tuple[str, str]]:
    """Neighbours of one segment as one."""
    found: list[tuple[str, str]] = []
    for span in spans:
        if found and found[-1][0] == span.segment.name:
            found[-1] = span.segment.name, found[-1][1] + span.text
        else:
            found.append((span.segment.name, span.text))
    return found


def _html_span(name: str, text: str) -> str:
    return f'<span class="segment {name}" title="{name.lower()}">{html.escape(text)}</span>'
