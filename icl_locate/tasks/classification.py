"""Classification from JSON lines, CSV, or a data set of the Hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_locate.checks.signatures import checked
from icl_locate.errors import TaskError
from icl_locate.prompts.template import Example, PromptTemplate
from icl_locate.tasks.files import read_dataset, read_records
from icl_locate.tasks.task import Task

LABEL_TEMPLATE = PromptTemplate(
    source_prefix="Input: ", target_prefix="\nLabel: ", separator="\n\n"
)


@checked(TaskError)
def classification_task(
    train: str | Path,
    test: str | Path | None = None,
    *,
    text: str = "text",
    label: str = "label",
    names: Mapping[Any, str] | None = None,
    template: PromptTemplate | None = None,
    metric: str = "exact_match",
) -> Task:
    """A classification task: sources are texts, targets the labels' names.

    Args:
        train: the bank: a ``.jsonl`` or ``.csv`` file; or a data set's name, of which the split
            "train" is taken.
        test: the queries: another file, or the data set's split (by default "test"); with a file
            for ``train`` and none here, the bank's rows are the queries too.
        text, label: the names of the columns.
        names: what each label is called in prompts; ``None`` takes it as it stands.

    Raises:
        TaskError: a missing or malformed file, no download, or a label that ``names`` lacks.
    """
    if Path(train).suffix in (".jsonl", ".csv"):
        rows = _read(Path(train), text, label)
        queries = rows if test is None else _read(Path(test), text, label)
        name = Path(train).stem
    else:
        rows = read_dataset(str(train), "train", [text, label])
        queries = read_dataset(str(train), str(test or "test"), [text, label])
        name = str(train)

    def examples(some: list[dict[str, Any]]) -> tuple[Example, ...]:
        return tuple(Example(str(row[text]), _name(row[label], names)) for row in some)

    return Task(
        name=name,
        train=examples(rows),
        test=examples(queries),
        template=template or LABEL_TEMPLATE,
        metric=metric,
    )


def _read(path: Path, text: str, label: str) -> list[dict[str, Any]]:
    if path.suffix not in (".jsonl", ".csv"):
        raise TaskError(
            f"test is {str(path)!r}, neither .jsonl nor .csv: expected a file like train's"
        )
    return read_records(path, [text, label])


def _name(label: Any, names: Mapping[Any, str] | None) -> str:
    if names is None:
        return str(label)
    for key in (label, str(label)):
        if key in names:
            return names[key]
    raise TaskError(
        f"the label {label!r} has no name: names holds {', '.join(map(str, names)) or 'nothing'}"
    )
