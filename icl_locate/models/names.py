"""What a model is called, checked before anything heavy is loaded: this module brings no torch."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from icl_locate.errors import ModelError

EMBEDDED = "embedded"

_PATIENCE = 5.0  # seconds for the Hub to answer


def embedded_directory() -> Path:
    """Where the package keeps the embedded model: weights, tokenizer and card."""
    return Path(str(files("icl_locate.embedded") / "model"))


def find_model(model: str | Path | None = None, revision: str | None = None) -> str:
    """Where a model is loaded from: a directory, or a name on the Hugging Face Hub.

    The Hub is asked once and not again, and only for what is not on this machine.

    Args:
        model: ``None`` or "embedded" for the model that comes with the package; a local directory;
            or a name on the Hub.
        revision: of a model on the Hub.

    Raises:
        ModelError: if there is no such directory, no model can be called so, or the Hub has none
            of that name or cannot be reached.

    >>> find_model("./nowhere")
    Traceback (most recent call last):
    icl_locate.errors.ModelError: there is no model directory ./nowhere: expected one with a \
config.json
    """
    if model is not None and not isinstance(model, (str, Path)):
        raise ModelError(
            f"model is a {type(model).__name__}: expected a name on the Hugging Face Hub, a local "
            "directory, 'embedded' or None"
        )
    name = EMBEDDED if model is None else str(model)
    path = embedded_directory() if name == EMBEDDED else Path(name)
    if path.is_dir():
        return _check_directory(path, revision)
    if path.is_absolute() or name.startswith((".", "~")) or name.endswith("/"):
        raise ModelError(f"there is no model directory {name}: expected one with a config.json")
    _check_name(name)
    _check_hub(name, revision)
    return name


def commit_of(name: str, revision: str | None = None) -> str | None:
    """The commit of a model's files that lie on this machine; ``None`` of a local directory.

    Args:
        name: as `find_model` gives it.
        revision: as the model was loaded with.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        return None
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def _check_directory(path: Path, revision: str | None) -> str:
    if revision is not None:
        raise ModelError(
            f"revision is {revision!r}, but the model is the directory {path}: expected a name on "
            "the Hugging Face Hub, which keeps revisions; leave it out"
        )
    if not (path / "config.json").is_file():
        raise ModelError(
            f"the model {str(path)!r} could not be loaded: the directory holds no config.json; "
            "expected a model as save_pretrained() writes it"
        )
    return str(path)


def _check_name(name: str) -> None:
    """Refuse what no model on the Hub can be called."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ModelError(
            f"model is {name!r}: expected 'embedded', a local directory (there is none of that "
            "name), or a name on the Hugging Face Hub, such as 'gpt2' or 'meta-llama/Llama-3.1-8B'"
        ) from error


def _check_hub(name: str, revision: str | None) -> None:
    """Refuse a model that is neither on this machine nor on the Hub."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    start = f"the model {name!r} could not be loaded: "
    try:
        HfApi().model_info(name, revision=revision, timeout=_PATIENCE)
    except RevisionNotFoundError as error:
        raise ModelError(f"{start}it has no revision {revision!r}") from error
    except GatedRepoError as error:
        raise ModelError(
            f"{start}access must be asked for on its page, and you be logged in (hf auth login)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{start}the Hugging Face Hub has none of that name, or shows it only to those who are "
            "logged in (hf auth login)"
        ) from error
    except OfflineModeIsEnabled as error:
        what, there = ("it", "") if revision is None else _missing(name, revision)
        raise ModelError(
            f"{start}{what} is not on this machine{there}, and HF_HUB_OFFLINE is set: give a local "
            "directory, or unset it"
        ) from error
    except Exception as error:  # of whatever library the Hub's own uses for its requests
        raise ModelError(
            f"{start}it is not on this machine, and the Hugging Face Hub cannot be reached "
            f"({type(error).__name__}: {error}): give a local directory, or go online"
        ) from error


def _missing(name: str, revision: str) -> tuple[str, str]:
    """A revision that this machine does not hold, and the most similar ones that it does."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    known = [str(path.relative_to(folder / "refs")) for path in (folder / "refs").rglob("*")]
    near = get_close_matches(revision, known, n=3, cutoff=0.5) or sorted(known)[:3]
    return f"its revision {revision!r}", f" (there: {', '.join(near)})" if near else ""
