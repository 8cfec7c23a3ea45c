"""A command's options as a TOML file: what ``--config`` reads, and every command writes.

An option that was not given stands in no line. A relative path means what it means on the command
line; what is written names files that are there by their absolute paths, so that the file works
from everywhere. The table ``files`` says what they held.
"""

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast

from icl_locate import __version__
from icl_locate.checks.signatures import checks_of_fields
from icl_locate.cli.earlier import digest_of, named_files
from icl_locate.cli.named import module_root
from icl_locate.cli.options import MODULES, Output
from icl_locate.errors import IclLocateError
from icl_locate.records.files import describe, replace_file

CONFIG = "config.toml"
"""What every command writes its options to, in its output directory."""

_COMMAND, _FILES = "command", "files"
_FILE_KEYS = {"path", "sha256"}
_NOT_KEPT = {"config"}
_NOT_WRITTEN = {"config", "overwrite", "dry_run"}  # said for one run, not for the next
_TASKS = {"task", "other"}  # options that are a task's name, or its file

C = TypeVar("C", bound=Output)


@dataclass(frozen=True)
class ConfigFile:
    """What a file says: a command, its options, and what the files held that they name."""

    path: Path
    command: str
    options: Mapping[str, Any]
    files: Mapping[str, Mapping[str, str]]


def write_config(config: Output) -> Path:
    """Write a command's options into its output directory, for ``--config`` to read.

    Raises:
        ResultError: if they cannot be written.
    """
    settled = settle_paths(config)
    held = {
        name: {"path": str(file.absolute()), "sha256": digest_of(file)}
        for name, file in named_files(config).items()
    }
    text = config_text(settled, held)
    return replace_file(config.output / CONFIG, [text.encode("utf-8", "surrogateescape")])


def config_text(config: Output, files: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """A command's options as TOML.

    Args:
        files: by option, the path and the digest of the file that it names.
    """
    given = {name: value for name, value in vars(config).items() if name not in _NOT_WRITTEN}
    open_ = [name for name, value in given.items() if value is None]
    lines = [
        f"# written by icl_locate {__version__}; to run it again:",
        f"# icl-locate {config.command} --config {CONFIG} --output ELSEWHERE",
        f"{_COMMAND} = {_toml(config.command)}",
        "",
        *(f"{name} = {_toml(value)}" for name, value in given.items() if value is not None),
    ]
    if open_:
        lines += ["", "# not given, as --help says what stands then:"]
        lines += [f"#   {name}" for name in open_]
    for name, file in (files or {}).items():
        lines += ["", f"[{_FILES}.{name}]", *(f"{key} = {_toml(it)}" for key, it in file.items())]
    return "\n".join([*lines, ""])


def read_config_file(path: Path) -> ConfigFile:
    """What a file says, as far as that does not depend on the command.

    Raises:
        IclLocateError: if it cannot be read, or names no command.
    """
    try:
        found = tomllib.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
    except (OSError, ValueError, RecursionError) as error:
        raise IclLocateError(f"--config {path} cannot be read: {describe(error)}") from error
    command, files = found.pop(_COMMAND, None), found.pop(_FILES, {})
    if not isinstance(command, str):
        raise IclLocateError(
            f"--config {path} names no command: expected the options of one, beginning with a line "
            f'such as {_COMMAND} = "sweep" (every command writes a {CONFIG} into its output)'
        )
    whole = isinstance(files, dict) and all(
        isinstance(file, dict)
        and set(file) == _FILE_KEYS
        and all(isinstance(value, str) for value in file.values())
        for file in files.values()
    )
    if not whole:
        raise IclLocateError(
            f"--config {path} has {_FILES} that are none: expected tables [{_FILES}.OPTION] with "
            "the texts path and sha256, or no such tables"
        )
    return ConfigFile(path, command, found, files)


def options_of(found: ConfigFile, kind: type[C]) -> C:
    """The options of a command, where the file leaves one out at its default.

    Raises:
        IclLocateError: if the file is another command's, or an option is unknown or no such value.
    """
    path, wanted = found.path, kind.command
    if found.command != wanted:
        raise IclLocateError(
            f"--config {path} is of the command {found.command!r}: expected one of {wanted!r}; run "
            f"icl-locate {found.command} --config {path}, or leave --config out"
        )
    known = {field.name: str(field.type) for field in fields(kind) if field.name not in _NOT_KEPT}
    checks, taken = checks_of_fields(cast(Any, kind)), dict[str, Any]()
    for name, value in found.options.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(known)}"
            raise IclLocateError(f"--config {path} has {name!r}, no option of {wanted}: {hint}")
        right = checks[name](f"--config {path}: {name}", value, IclLocateError)
        taken[name] = _as_paths(right) if "Path" in known[name] else right
    return kind(**taken)


def open_modules(found: ConfigFile) -> None:
    """Let Python find the modules that a file's options name where they lay when it was written."""
    for name in MODULES & set(found.files) & set(found.options):
        root = module_root(str(found.options[name]), Path(found.files[name]["path"]))
        if root is not None and str(root) not in sys.path:
            sys.path.append(str(root))  # last, as for the working directory


def changed_files(config: Output) -> list[str]:
    """Of the files that the options of ``--config`` name, what holds something else by now."""
    if config.config is None:
        return []
    found, now = read_config_file(config.config), named_files(config)
    settled = settle_paths(config)
    return [
        f"{now[name]} (--{name.replace('_', '-')})"
        for name, file in found.files.items()
        if name in now
        and str(getattr(settled, name)) == str(found.options.get(name))
        and digest_of(now[name]) != file["sha256"]
    ]


def settle_paths(config: C) -> C:
    """The same options, with absolute paths of what is there; where it writes is left as it is."""
    settled = {
        name: _settle(name, value) for name, value in vars(config).items() if name != "output"
    }
    return replace(config, **settled)


def _settle(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_settle(name, item) for item in value)
    if isinstance(value, Path):
        return value.absolute() if value.exists() or _saved(value).exists() else value
    if name in _TASKS and value is not None and Path(value).suffix and Path(value).is_file():
        return str(Path(value).absolute())
    if name == "model" and value != "embedded" and Path(value).is_dir():
        return str(Path(value).absolute())
    return value


def _saved(path: Path) -> Path:
    """A result's file, which may be named without its suffix."""
    return path.with_name(f"{path.name}.safetensors")


def _as_paths(value: Any) -> Any:
    """The paths of texts."""
    return tuple(map(Path, value)) if isinstance(value, tuple) else Path(value)


def _toml(value: Any) -> str:
    """A value as it stands behind the equals sign."""
    import tomli_w

    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    plain = str(value) if isinstance(value, Path) else value
    return tomli_w.dumps({"v": plain}).removeprefix("v = ").removesuffix("\n")
