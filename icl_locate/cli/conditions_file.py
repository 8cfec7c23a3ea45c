"""Conditions of a user's own, in a TOML file."""

import tomllib
from pathlib import Path
from typing import Any

from icl_locate.errors import IclLocateError


def read_conditions(path: Path) -> tuple[Any, ...]:
    """The conditions of a file.

    Raises:
        IclLocateError: if it cannot be read, or holds something else.
    """
    from icl_locate._types import Segment
    from icl_locate.conditions import Condition

    try:
        tables = tomllib.loads(path.read_text("utf-8"))["condition"]
        return tuple(
            Condition(**table | {"hide": {Segment[name] for name in table["hide"]}})
            for table in tables
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise IclLocateError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise IclLocateError(
            f"{path} is no list of conditions ({error}): expected tables "
            '[[condition]] with name = "...", hide = ["EXAMPLES", ...] and optionally instruction '
            "and keep_self, segments being BOS, INSTRUCTIONS, EXAMPLES, QUERY and GENERATED"
        ) from error
