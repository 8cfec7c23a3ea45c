"""Conditions of a user's own, in a TOML file."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from icl_locate.errors import IclLocateError


def read_conditions(path: Path) -> tuple[Any, ...]:
    """The conditions of a file.

    Raises:
        IclLocateError: if it cannot be read, or holds something else.
    """
    from icl_locate.interventions.conditions import Condition
    from icl_locate.interventions.segments import as_segments

    try:
        read = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IclLocateError(f"{path} cannot be read: {error}") from error
    known = [field.name for field in fields(Condition)]
    problem = _find_problem(read, known)
    if problem:
        raise IclLocateError(
            f"{path} is no list of conditions ({problem}): expected tables [[condition]] and "
            'nothing else, each with name = "...", hide = ["EXAMPLES", ...] and optionally '
            f"{', '.join(known[2:])}"
        )
    try:
        return tuple(
            Condition(**table | {"hide": as_segments(table["hide"])}) for table in read["condition"]
        )
    except IclLocateError as error:
        raise IclLocateError(f"{path}: {error}") from error


def _find_problem(read: dict[str, Any], known: list[str]) -> str:
    """What is there and should not be, or is not and should; nothing if all is well."""
    if set(read) - {"condition"}:
        return ", ".join(sorted(set(read) - {"condition"}))
    tables = read.get("condition")
    if not isinstance(tables, list) or not tables:
        return "no tables"
    for table in tables:
        keys = set(table) if isinstance(table, dict) else {repr(table)}
        wrong = sorted(keys - set(known)) or [f"no {key}" for key in known[:2] if key not in keys]
        if wrong:
            return ", ".join(wrong)
    return ""
