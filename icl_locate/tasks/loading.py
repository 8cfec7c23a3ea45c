"""Finding a task: by name, or in a file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import TaskError
from icl_locate.prompts.template import Example, PromptTemplate
from icl_locate.tasks.classification import LABEL_TEMPLATE
from icl_locate.tasks.code import human_eval_task
from icl_locate.tasks.files import read_placed
from icl_locate.tasks.patterns import PATTERN_TASKS, pattern_task
from icl_locate.tasks.pseudo import CODE, TRANSLATION, pseudo_task
from icl_locate.tasks.task import DEFAULT_TEMPLATE, Task
from icl_locate.tasks.translation import flores_task, parse_direction

SPLITS = ("train", "test")
PAIRS, LABELLED = ("source", "target"), ("text", "label")


@checked(TaskError, task=anything)
def load_task(
    task: str | Path | Task,
    *,
    template: PromptTemplate | None = None,
    metric: str | None = None,
    data: str | Path | None = None,
) -> Task:
    r"""Load a task by name or from a file.

    A file's records, the objects of a JSONL file or the rows of a CSV file with a header, have a
    "source" and a "target", or a "text" and a "label" (classification, laid out as such), and
    optionally a "split", "train" or "test". Without splits every record is both a query and an
    example for the others.

    Args:
        task: "pseudo-translation" (also "pseudo-translation/LANGUAGE"), "pseudo-python",
            "flores/SOURCE-TARGET" such as "flores/en-fr", "humaneval" (also
            "humaneval/docstring", whose prompts hold no signature), a pattern task ("repetition",
            "recursion", "centre-embedding", "f_a_f_p/2", "f_a_f_p/4", "v_v_b_i/2", "v_v_b_i/4"),
            the path of a .jsonl or .csv file, or a `Task`, which is returned as it is.
        template: the prompt layout; the default is the task's own. That of a file is
            "Q: {source}\nA: {target}" with a blank line behind it, or with "Input" and "Label" for
            "text" and "label"; the query ends in "A:", and an answer at the next blank line.
        metric: the metric; the default is the task's own, "exact_match" for a file.
        data: for "flores" and "humaneval" the directory of their files in the published formats;
            ``None`` loads them from the Hugging Face Hub.

    Raises:
        TaskError: if the name is unknown, a file is missing, or a line is malformed (its number is
            in the message).
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, (str, Path)):
        refuse("task", task, "a Task, or a name or file that load_task takes", TaskError)
    name = str(task)
    kind, _, option = name.partition("/")
    if kind == "flores" and option:
        found = flores_task(option, data)
    elif name in ("humaneval", "humaneval/docstring"):
        found = human_eval_task(data, signature=not option)
    elif name in PATTERN_TASKS:
        found = pattern_task(name)
    elif kind in (CODE, TRANSLATION):
        if template is not None or metric is not None:
            raise TaskError(f"{name} brings its own template and metric: use dataclasses.replace")
        return pseudo_task(name)
    else:
        found = _file_task(Path(task))
    if template is not None:
        found = replace(found, template=template, bare_template=None)
    return replace(found, metric=metric or found.metric)


def check_task(task: str | Path, *, data: str | Path | None = None) -> Task | None:
    """`load_task` as far as this machine goes: ``None`` for what would come from the Hub.

    Raises:
        TaskError: as `load_task` does.
    """
    kind, _, direction = str(task).partition("/")
    if data is None and kind == "flores" and direction:
        parse_direction(direction)
        return None
    if data is None and kind == "humaneval":
        return None
    return load_task(task, data=data)


def _file_task(path: Path) -> Task:
    if path.suffix not in (".jsonl", ".csv"):
        raise TaskError(
            f"unknown task {str(path)!r}: expected {TRANSLATION}, {TRANSLATION}/LANGUAGE, {CODE}, "
            f"flores/SOURCE-TARGET, humaneval, {', '.join(PATTERN_TASKS)}, or the path of a .jsonl "
            "or .csv file"
        )
    if not path.is_file():
        raise TaskError(f"there is no task file {path}")
    splits, columns = read_examples(path)
    template = LABEL_TEMPLATE if columns == LABELLED else DEFAULT_TEMPLATE
    return Task(path.stem, splits["train"], splits["test"], template, "exact_match")


def read_examples(path: Path) -> tuple[dict[str, tuple[Example, ...]], tuple[str, str]]:
    """The examples of a task file by split, and the two columns that they stand in.

    Raises:
        TaskError: naming the file and line, if it is not UTF-8, malformed, or lacks a column.
    """
    records = read_placed(path)
    columns = _columns(*records[0])
    found: dict[str | None, list[Example]] = {}
    for place, record in records:
        source, target = (_text(place, record, name) for name in columns)
        found.setdefault(_split(place, record), []).append(Example(source, target))
    if None in found and len(found) > 1:
        raise TaskError(
            f'{path}: some lines have a "split" and some do not: give it to all or none'
        )
    if None in found:
        return {split: tuple(found[None]) for split in SPLITS}, columns
    missing = [split for split in SPLITS if split not in found]
    if missing:
        raise TaskError(f'{path} has no line with "split": "{missing[0]}"')
    return {split: tuple(found[split]) for split in SPLITS}, columns


def _columns(place: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """Which pair of columns a file has, by its first record."""
    for columns in (PAIRS, LABELLED):
        if any(name in record for name in columns):
            return columns
    held = ", ".join(map(repr, record)) or "nothing"
    raise TaskError(f'{place} holds {held}: expected "source" and "target", or "text" and "label"')


def _text(place: str, record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if name == "label" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # classes are often numbered
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f'{place}: "{name}" is {value!r}: expected text')
    return value


def _split(place: str, record: Mapping[str, Any]) -> str | None:
    split = record.get("split") or None  # an empty cell of CSV
    if split not in (None, *SPLITS):
        raise TaskError(f'{place}: "split" is {split!r}: expected "train" or "test"')
    return split
