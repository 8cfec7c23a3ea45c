"""Code generation: HumanEval's problems, with MBPP's as examples."""

import ast
import re
from pathlib import Path
from typing import Any

from icl_locate.checks.signatures import checked
from icl_locate.errors import TaskError
from icl_locate.prompts.programs import CodeCheck, signature_of
from icl_locate.prompts.template import Example, PromptTemplate
from icl_locate.tasks.files import read_dataset, read_records
from icl_locate.tasks.task import Task

HUMAN_EVAL, MBPP = "openai/openai_humaneval", "google-research-datasets/mbpp"
HUMAN_EVAL_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
MBPP_FIELDS = ("task_id", "text", "code", "test_list")
BANK = range(801, 975)  # the lines of MBPP that examples are drawn from (Sia et al. 2024)

CODE_TEMPLATE = PromptTemplate(
    instruction="Write a program for the following task:",
    source_prefix="Q:",
    target_prefix="\nA:",
    separator=" \n",
    stop=("Q:",),
    instruction_separator="\n\n",
)
"""The prompt of Sia et al. (2024) for code; without instruction its first line is left out."""


@checked(TaskError)
def human_eval_task(
    path: str | Path | None = None, bank: str | Path | None = None, *, signature: bool = True
) -> Task:
    """HumanEval (Chen et al. 2021) with examples from MBPP (Austin et al. 2021).

    Args:
        path: ``HumanEval.jsonl`` or ``.jsonl.gz``, or a directory that holds it; ``None`` loads it
            from the Hugging Face Hub.
        bank: the same for ``mbpp.jsonl``; ``None`` looks beside ``path``, or loads it.
        signature: whether sources hold the function's signature; without it (as in Sia et al.) the
            model must guess the function's name.

    Raises:
        TaskError: a missing or malformed file, or no download.
    """
    if path is None:
        problems = read_dataset(HUMAN_EVAL, "test", HUMAN_EVAL_FIELDS)
    else:
        problems = read_records(_find(path, "HumanEval.jsonl"), HUMAN_EVAL_FIELDS)
    if bank is None and path is None:
        splits = ("train", "test", "validation", "prompt")
        examples = [row for split in splits for row in read_dataset(MBPP, split, MBPP_FIELDS)]
    else:
        examples = read_records(_find(bank or path or "", "mbpp.jsonl"), MBPP_FIELDS)
    train = tuple(
        mbpp_example(record, signature=signature)
        for record in examples
        if int(record["task_id"]) in BANK
    )
    if not train:
        raise TaskError(
            f"MBPP has no problem with a task_id from {BANK[0]} to {BANK[-1]} here, from which "
            "examples are drawn: give the whole mbpp.jsonl"
        )
    return Task(
        name="humaneval" if signature else "humaneval/docstring",
        train=train,
        test=tuple(human_eval_example(record, signature=signature) for record in problems),
        template=CODE_TEMPLATE,
        metric="pass@1",
    )


def human_eval_example(record: dict[str, Any], *, signature: bool = True) -> Example:
    """One problem of HumanEval: its signature and docstring, its solution, and its tests."""
    prompt, entry_point = str(record["prompt"]), str(record["entry_point"])
    check = CodeCheck(f"{record['test']}\ncheck({entry_point})\n", prompt, entry_point)
    source = prompt.strip() if signature else _docstring(prompt, entry_point)
    return Example(source, f"{prompt}{record['canonical_solution']}".strip(), check)


def mbpp_example(record: dict[str, Any], *, signature: bool = True) -> Example:
    """One problem of MBPP: its text (and signature), its solution, and its tests."""
    code = str(record["code"]).replace("\r\n", "\n").strip()
    tests = [str(test) for test in record["test_list"]]
    setup = str(record.get("test_setup_code") or "")
    entry_point = next((name for name in _called(tests) if signature_of(code, name)), "")
    source = str(record["text"])
    if signature and entry_point:
        source = f"{source}\n{signature_of(code, entry_point)}"
    return Example(source, code, CodeCheck("\n".join([setup, *tests]), "", entry_point))


def _called(tests: list[str]) -> list[str]:
    """The names that a list of tests mentions in front of a bracket, in order."""
    return re.findall(r"([A-Za-z_]\w*)\s*\(", " ".join(tests))


def _docstring(prompt: str, entry_point: str) -> str:
    """The docstring of a prompt's entry point, on one line."""
    try:
        tree = ast.parse(f"{prompt.rstrip()}\n    pass\n")
    except SyntaxError as error:
        raise TaskError(f"the prompt of {entry_point!r} is no Python ({error})") from error
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point:
            return " ".join((ast.get_docstring(node) or prompt).split())
    raise TaskError(f"the prompt defines no {entry_point!r}: {prompt[:60]!r}")


def _find(path: str | Path, name: str) -> Path:
    """The file itself, or the one of this name in a directory, packed or in its usual folder."""
    path = Path(path)
    if not path.exists():
        raise TaskError(f"there is no file or directory {path}")
    if path.is_file() and path.name.startswith(name):
        return path
    path = path if path.is_dir() else path.parent
    folders = [path, path / "human-eval", path / "mbpp", path.parent / "mbpp"]
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise TaskError(
        f"there is no {name} (or {name}.gz) in {path}: download it from the data set's repository "
        "and give its path"
    )
