"""The records of runs in a store: what was asked, when and where, and which units it takes."""

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from platform import node
from typing import Any, Literal

from icl_locate.checks.arguments import check_choice, check_items, check_text
from icl_locate.errors import ResultError
from icl_locate.records.sealed import damaged, unseal
from icl_locate.records.store import NAME, Store

RUN = "icl_locate.Run/1"
_NAME = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}")
State = Literal["running", "done", "stopped"]


@dataclass
class RunRecord:
    """A call that kept its answers in a store.

    Attributes:
        name: what it is called: when it began, and some digits.
        study: the function or command, such as "sweep".
        began, ended: in UTC, ISO 8601; an end that is empty has not come, or nobody could say so.
        state: "running" until it says otherwise: a run that was killed cannot.
        why: what stopped it.
        host, process: where it ran.
        settings: the options of its command.
        recipe: model, task, prompts and versions.
        units: ``context/name`` of each unit that it takes, whoever computed it.
    """

    name: str
    study: str
    began: str
    ended: str = ""
    state: State | str = "running"
    why: str = ""
    host: str = field(default_factory=node)
    process: int = field(default_factory=os.getpid)
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    units: dict[str, None] = field(default_factory=dict)

    @classmethod
    def new(cls, study: str, settings: Mapping[str, Any]) -> "RunRecord":
        """The record of a run that begins."""
        began = datetime.now(UTC)
        name = f"{began:%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"  # by name is by time
        return cls(name, study, began.isoformat(timespec="seconds"), settings=dict(settings))

    def take(self, units: Iterable[str]) -> None:
        """Note units that it takes."""
        self.units.update(dict.fromkeys(units))

    def end(self, error: BaseException | None) -> None:
        """Note how it ended."""
        self.ended = datetime.now(UTC).isoformat(timespec="seconds")
        self.state = "done" if error is None else "stopped"
        if error is not None:
            self.why = f"{type(error).__name__}: {error}"[:1000]

    def write(self, store: Store) -> None:
        """Keep the record as it is now.

        Raises:
            ResultError: if it cannot be written.
        """
        from icl_locate.records.checkpoint import save_tensors  # takes torch; reading does not

        rest = asdict(self) | {"units": [*self.units]}
        save_tensors(store.runs / self.name, RUN, {}, rest)


def run_files(store: Store) -> list[Path]:
    """The records' files, the oldest first."""
    return [path for path in sorted(store.runs.glob("*.safetensors")) if _NAME.fullmatch(path.stem)]


def read_run(path: Path) -> RunRecord:
    """A record.

    Raises:
        ResultError: if the file is damaged, or none of ours.
    """
    rest = unseal(path, RUN).rest
    missing = [name for name in RunRecord.__dataclass_fields__ if name not in rest]
    if missing:
        damaged(path, f"it lacks {', '.join(missing)}")
    try:
        texts = ("name", "study", "began", "ended", "state", "why", "host")
        said: dict[str, Any] = {
            name: check_text(name, rest[name], error=ResultError) for name in texts
        }
        check_choice("state", said["state"], ("running", "done", "stopped"), error=ResultError)
        for name in ("settings", "recipe"):
            if not isinstance(rest[name], dict):
                raise ResultError(f"{name} are no mapping")
            said[name] = rest[name]
        units = check_items("units", rest["units"], "a list of units", error=ResultError)
        process = int(rest["process"])
    except (ResultError, TypeError, ValueError, OverflowError) as error:
        damaged(path, str(error), error)
    if said["name"] != path.stem or not all(map(_is_unit, units)):
        damaged(path, "its name or those of its units are none of ours")
    return RunRecord(**said, process=process, units=dict.fromkeys(units))


def _is_unit(value: Any) -> bool:
    """Whether a value is ``context/name``."""
    parts = value.split("/") if isinstance(value, str) else []
    return len(parts) == 2 and all(map(NAME.fullmatch, parts))
