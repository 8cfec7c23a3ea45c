"""What a user wrote and names on the command line, as MODULE:NAME.

A module is imported because its name was typed, and only then: from the working directory or
wherever Python finds modules.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from icl_locate.errors import IclLocateError

_EXPECTED = "MODULE:NAME, such as my_module:score for what my_module.py calls score"


def is_named(text: str) -> bool:
    """Whether a text is meant as MODULE:NAME: BLEU's names, too, may hold a colon."""
    return ":" in text and text.split(":")[0] not in ("bleu", "bleu_lc")


def import_named(option: str, text: str) -> Any:
    """What a module calls by a name; of a class, one that is made without arguments.

    Args:
        option: that it was given for, such as "--metric".

    Raises:
        IclLocateError: if there is no such module, it fails, or it holds nothing of that name.
    """
    place, name = _split(option, text)
    module = _import(option, text, place)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if _is_own(key, value, place)]
        raise IclLocateError(
            f"{option} is {text!r}, but {module.__file__ or place} has no {name!r}: it has "
            f"{', '.join(own) or 'nothing of its own'}"
        )
    found = getattr(module, name)
    try:
        return found() if isinstance(found, type) else found
    except Exception as error:
        raise IclLocateError(
            f"{option} is {text!r}, a class that cannot be made without arguments "
            f"({type(error).__name__}: {error}): name an instance of it"
        ) from error


def file_of(text: str) -> Path | None:
    """The file of a module that was imported as MODULE:NAME; ``None`` if there is no such file."""
    module = sys.modules.get(text.split(":")[0]) if is_named(text) else None
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file)


def module_root(text: str, file: Path) -> Path | None:
    """The directory from which MODULE:NAME is found in a file; ``None`` if it is not that file."""
    parts = text.partition(":")[0].split(".") if is_named(text) else []
    place = file.parent if file.name == "__init__.py" else file.with_suffix("")
    line = [place, *place.parents]
    if not parts or len(line) <= len(parts) or [*place.parts][-len(parts) :] != parts:
        return None
    return line[len(parts)]


def _split(option: str, text: str) -> tuple[str, str]:
    place, _, name = text.partition(":")
    if not (name.isidentifier() and all(part.isidentifier() for part in place.split("."))):
        raise IclLocateError(f"{option} is {text!r}: expected {_EXPECTED}")
    return place, name


def _import(option: str, text: str, place: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that no file here takes the place of a library's module
    try:
        return import_module(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise IclLocateError(
                f"{option} is {text!r}, but there is no module {error.name!r} in {here} or on the "
                f"Python path: expected {_EXPECTED}"
            ) from None
        problem = f"the module {place!r} failed: {type(error).__name__}: {error}"
        raise IclLocateError(f"{option} is {text!r}, but {problem}") from error


def _is_own(key: str, value: Any, place: str) -> bool:
    return not key.startswith("_") and getattr(value, "__module__", None) == place
