"""Finding a task: by name, or in a file."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icl_locate.errors import TaskError
from icl_locate.prompts import Example, PromptTemplate
from icl_locate.tasks.classification import classification_task
from icl_locate.tasks.code import human_eval_task
from icl_locate.tasks.files import read_lines
from icl_locate.tasks.patterns import PATTERN_TASKS, pattern_task
from icl_locate.tasks.pseudo import CODE, TRANSLATION, pseudo_task
from icl_locate.tasks.task import Task
from icl_locate.tasks.translation import flores_task

SPLITS = ("train", "test")


def load_task(
    task: str | Path | Task,
    *,
    template: PromptTemplate | None = None,
    metric: str | None = None,
    data: str | Path | None = None,
) -> Task:
    """Load a task by name or from a file.

    Each line of a JSONL file is an object with a "source", a "target" and optionally a "split",
    "train" or "test"; each row of a CSV file has the columns "text" and "label". In a file without
    splits every line is both a query and an example for the others.

    Args:
        task: "pseudo-translation" (also "pseudo-translation/LANGUAGE"), "pseudo-python",
            "flores/SOURCE-TARGET" such as "flores/en-fr", "humaneval" (also
            "humaneval/docstring", whose prompts hold no signature), a pattern task ("repetition",
            "recursion", "centre-embedding", "f_a_f_p/2", "f_a_f_p/4", "v_v_b_i/2", "v_v_b_i/4"),
            the path of a .jsonl or .csv file, or a `Task`, which is returned as it is.
        template: the prompt layout; the default is the task's own.
        metric: the metric; the default is the task's own, "exact_match" for a file.
        data: for "flores" and "humaneval" the directory of their files in the published formats;
            ``None`` loads them from the Hugging Face Hub.

    Raises:
        TaskError: if the name is unknown, a file is missing, or a line is malformed (its number is
            in the message).
    """
    if isinstance(task, Task):
        return task
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
    return replace(found, template=template or found.template, metric=metric or found.metric)


def _file_task(path: Path) -> Task:
    if path.suffix not in (".jsonl", ".csv"):
        raise TaskError(
            f"unknown task {str(path)!r}: expected {TRANSLATION}, {TRANSLATION}/LANGUAGE, {CODE}, "
            f"flores/SOURCE-TARGET, humaneval, {', '.join(PATTERN_TASKS)}, or the path of a .jsonl "
            "or .csv file"
        )
    if not path.is_file():
        raise TaskError(f"there is no task file {path}")
    if path.suffix == ".csv":
        return classification_task(path)
    splits = read_jsonl(path)
    return Task(path.stem, splits["train"], splits["test"], PromptTemplate(), "exact_match")


def read_jsonl(path: Path) -> dict[str, tuple[Example, ...]]:
    """The examples of a JSONL task file, by split.

    Raises:
        TaskError: naming the file and line, if it is not UTF-8, not JSON, or lacks a field.
    """
    found: dict[str | None, list[Example]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            record = _read_record(path, number, line)
            example = Example(record["source"], record["target"])
            found.setdefault(record.get("split"), []).append(example)
    if not found:
        raise TaskError(f"{path} holds no examples: expected one JSON object a line")
    if None in found and len(found) > 1:
        raise TaskError(
            f'{path}: some lines have a "split" and some do not: give it to all or none'
        )
    if None in found:
        return {split: tuple(found[None]) for split in SPLITS}
    missing = [split for split in SPLITS if split not in found]
    if missing:
        raise TaskError(f'{path} has no line with "split": "{missing[0]}"')
    return {split: tuple(found[split]) for split in SPLITS}


def _read_record(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise TaskError(f"{path}, line {number} is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise TaskError(
            f"{path}, line {number} is a {type(record).__name__}: expected an object with "
            '"source" and "target"'
        )
    for key in ("source", "target"):
        value = record.get(key)
        if not isinstance(value, str) or not value.strip():
            raise TaskError(f'{path}, line {number}: "{key}" is {value!r}: expected text')
    if record.get("split") not in (None, *SPLITS):
        raise TaskError(
            f'{path}, line {number}: "split" is {record["split"]!r}: expected "train" or "test"'
        )
    return record
