"""Which step of a training a name tells of, checked before anything heavy is loaded: no torch."""

import re
from pathlib import Path

from icl_locate.errors import ModelError

_STEP = re.compile(r"(?:step|checkpoint|ckpt|iter(?:ation)?)[-_]?(\d+)", re.IGNORECASE)
_EXPECTED = 'expected its step in the name, such as "step1000" or "checkpoint-500"'


def step_of(name: str) -> int | None:
    """The training step that a revision's or a directory's name tells; ``None`` if none does.

    >>> step_of("step1000"), step_of("checkpoint-500"), step_of("stage1-step7000-tokens30B")
    (1000, 500, 7000)
    >>> step_of("main"), step_of("pythia-70m"), step_of("0250")
    (None, None, 250)
    """
    found = _STEP.search(name)
    if found:
        return int(found[1])
    return int(name) if name.isascii() and name.isdigit() else None


def split_revision(text: str) -> tuple[str, str | None]:
    """A model and its revision, written as NAME@REVISION; a directory has none.

    >>> split_revision("EleutherAI/pythia-70m@step1000")
    ('EleutherAI/pythia-70m', 'step1000')
    >>> split_revision("runs/step0100")
    ('runs/step0100', None)
    """
    name, at, revision = text.rpartition("@")
    if not at or not name or Path(text).exists():
        return text, None
    return name, revision


def checkpoints_in(directory: Path) -> dict[int, Path]:
    """The sub-directories of a directory whose names tell a step, the first step first.

    Raises:
        ModelError: if there is none, two tell one step, or one holds no model.
    """
    found: dict[int, Path] = {}
    for path in sorted(path for path in directory.iterdir() if path.is_dir()):
        step = step_of(path.name)
        if step is None:
            continue
        if step in found:
            raise ModelError(f"{found[step]} and {path} are both of step {step}: expected one each")
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{path} holds no config.json: expected a model as save_pretrained() writes it; "
                "give those that are whole as a list"
            )
        found[step] = path
    if not found:
        raise ModelError(
            f"the directory {directory} has no checkpoints: expected sub-directories such as "
            "step1000 or checkpoint-500, each with a model"
        )
    return dict(sorted(found.items()))


def require_step(name: str, place: str) -> int:
    """The step of a name.

    Raises:
        ModelError: if it tells none.
    """
    step = step_of(name)
    if step is None:
        raise ModelError(f"{place} is of no known step: {_EXPECTED}; or say which by steps=")
    return step
