"""Finding a task: by name, or in a JSONL file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_locate.errors import TaskError
from icl_locate.prompts import Example, PromptTemplate
from icl_locate.tasks.pseudo import CODE, TRANSLATION, pseudo_task
from icl_locate.tasks.task import Task

SPLITS = ("train", "test")


def load_task(
    task: str | Path | Task, *, template: PromptTemplate | None = None, metric: str | None = None
) -> Task:
    """Load a task by name or from a JSONL file.

    Each line of a file is an object with a "source", a "target" and optionally a "split", "train"
    or "test". In a file without splits every line is both a query and an example for the others.

    Args:
        task: "pseudo-translation" (also "pseudo-translation/LANGUAGE"), "pseudo-python", the path
            of a .jsonl file, or a `Task`, which is returned as it is.
        template: the prompt layout for a file; the default has no instruction.
        metric: the metric for a file; the default is "exact_match".

    Raises:
        TaskError: if the name is unknown, the file is missing, or a line is malformed (its number
            is in the message).
    """
    if isinstance(task, Task):
        return task
    name = str(task)
    if name in (CODE, TRANSLATION) or name.startswith(f"{TRANSLATION}/"):
        if template is not None or metric is not None:
            raise TaskError(f"{name} brings its own template and metric: use dataclasses.replace")
        return pseudo_task(name)
    path = Path(task)
    if path.suffix != ".jsonl":
        raise TaskError(
            f"unknown task {name!r}: expected {TRANSLATION}, {TRANSLATION}/LANGUAGE, {CODE}, or "
            "the path of a .jsonl file"
        )
    if not path.is_file():
        raise TaskError(f"there is no task file {path}")
    splits = read_jsonl(path)
    return Task(
        name=path.stem,
        train=splits["train"],
        test=splits["test"],
        template=template or PromptTemplate(),
        metric=metric or "exact_match",
    )


def read_jsonl(path: Path) -> dict[str, tuple[Example, ...]]:
    """The examples of a JSONL task file, by split.

    Raises:
        TaskError: naming the file and line, if it is not UTF-8, not JSON, or lacks a field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error
    found: dict[str | None, list[Example]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
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
