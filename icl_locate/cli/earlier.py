"""What an output directory holds already: a result of another recipe is not replaced unasked."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from icl_locate.cli.named import file_of
from icl_locate.cli.options import MODULES, Output, Replacing
from icl_locate.errors import IclLocateError, ResultError
from icl_locate.records.sealed import read_rest

SETTINGS = "settings"  # of a result's provenance: the command and the options that it was run with
_SHOWN_ONLY = {
    "output", "config", "overwrite", "quiet", "dry_run", "run_code", "confidence", "store", "ray",
}  # fmt: skip


def check_earlier(config: Any, *paths: Path, model: Any = None) -> None:
    """Refuse, before anything runs, to replace a result that this command would not make again.

    It would if its options are the same, the files that they name hold the same, and (once the
    model is there) its weights are. ``--overwrite`` replaces any result.

    Args:
        config: the command's options.
        paths: where it writes results.
        model: if it is loaded, whose fingerprint to compare.

    Raises:
        IclLocateError: naming what differs.
    """
    replaces = isinstance(config, Replacing)
    if replaces and config.overwrite:
        return
    for path in paths:
        if path.exists():
            differs = _differences(config, path, model)
            if differs:
                way = ", or add --overwrite to replace it" * replaces
                raise IclLocateError(
                    f"{path} is in the way, {differs}: choose another --output{way}"
                )


def with_settings(result: Any, config: Any) -> Any:
    """A result that knows the options of the command that made it."""
    return replace(result, provenance={**result.provenance, SETTINGS: settings_of(config)})


def settings_of(config: Any) -> dict[str, Any]:
    """What decides a command's numbers: its name, its options, and what files they name hold."""
    given = {name: value for name, value in vars(config).items() if name not in _SHOWN_ONLY}
    held = {f"{name}_sha256": digest_of(file) for name, file in named_files(config).items()}
    options = {name: _plain(value) for name, value in given.items()}
    return {"command": config.command, **options, **held}


def named_files(config: Output) -> dict[str, Path]:
    """By option, the file that it names: as a path, or as a module of the user's own."""
    given = {name: value for name, value in vars(config).items() if name not in _SHOWN_ONLY}
    found = {name: _file_of(name, value) for name, value in given.items()}
    return {name: file for name, file in found.items() if file is not None}


def digest_of(path: Path) -> str:
    """The digest of what a file holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _differences(config: Any, path: Path, model: Any) -> str:
    """What sets a file apart from what the command would write there; nothing if they agree."""
    try:
        recipe = read_rest(path).get("provenance")
    except ResultError:
        return "and no result of this version"
    recipe = recipe if isinstance(recipe, dict) else {}
    kept, wanted = recipe.get(SETTINGS), settings_of(config)
    if not isinstance(kept, dict) or kept.get("command") != wanted["command"]:
        return "a result that another command or script made"
    if wanted["command"] == "demo":
        return ""
    defaults = {field.name: _plain(field.default) for field in fields(config)}
    names = sorted({*kept, *wanted})
    differ = [
        name
        for name in names
        if _of(kept, name, defaults) != _of(wanted, name, defaults)
        and not _same_place(name, kept, wanted)
    ]
    if model is not None:
        from icl_locate.models.fingerprint import fingerprint

        differ += ["weights"] * (recipe.get("fingerprint") != fingerprint(model))
    return f"a result of another recipe (other {', '.join(differ)})" if differ else ""


def _of(settings: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> Any:
    """A setting; one that an earlier version did not have is at its default."""
    return settings.get(name, defaults.get(name))


def _same_place(name: str, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an option names the same file or directory by another path."""
    if f"{name}_sha256" in {*kept} & {*wanted}:  # which are compared themselves
        return True
    places = [Path(given) for side in (kept, wanted) if isinstance(given := side.get(name), str)]
    with suppress(OSError, ValueError):
        return len(places) == 2 and places[0].samefile(places[1])
    return False


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _file_of(name: str, value: Any) -> Path | None:
    """The file that an option names, if it names one: a path, or a module of the user's own."""
    if not isinstance(value, (str, Path)):
        return None
    if name in MODULES:
        return file_of(str(value))
    return Path(value) if Path(value).is_file() else None
