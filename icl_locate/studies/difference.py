"""Two runs side by side: what was asked of which model, what ran it where, and what came out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.records.checkpoint import saved_path
from icl_locate.records.difference import UNSAID, FileDifference, Pair, compare_files, is_answer
from icl_locate.records.files import as_path
from icl_locate.records.sealed import is_sealed

ASKED, MODEL, RAN, MACHINE, FOUND = GROUPS = (
    "what was asked", "the model", "what ran it", "the machine", "what was found",
)  # fmt: skip
"""Where a difference of two recipes belongs."""

_GROUP_OF = {
    **dict.fromkeys(("model", "revision", "dtype", "vocabulary_sha256", "architecture"), MODEL),
    **dict.fromkeys(("fingerprint", "revisions"), MODEL),
    **dict.fromkeys(("versions", "commit", "engine", "batch_size", "token_budget"), RAN),
    **dict.fromkeys(("hardware", "device", "device_map", "data"), MACHINE),
    **dict.fromkeys(("dev_objectives", "n_right", "n_tried", "ceiling"), FOUND),
}
_WORDS = {
    "fingerprint": "weights", "prompts_sha256": "prompts", "vocabulary_sha256": "tokenizer",
    "commit": "commit of icl_locate",
}  # fmt: skip
_INSIDE = {"settings", "versions", "hardware"}  # whose own names say more than these do


@dataclass(frozen=True)
class RunDifference:
    """What sets two results apart.

    Attributes:
        paths: their files.
        found: tensor by tensor, and leaf by leaf.
    """

    paths: tuple[Path, Path]
    found: FileDifference

    @cached_property
    def groups(self) -> Mapping[str, Mapping[str, Pair]]:
        """By group, such as "what was asked", what differs in the recipes, with both values."""
        groups: dict[str, dict[str, Pair]] = {group: {} for group in GROUPS}
        tokenizer = any("vocabulary_sha256" in path for path in self.found.leaves)
        for path, pair in self.found.leaves.items():
            inner = _inside_recipe(path)
            if inner and not self._is_held_alike(path):
                group = _group_of(inner)
                if "prompts_sha256" in inner and tokenizer:  # which tokenizes texts otherwise
                    group = MODEL
                groups[group][".".join(inner)] = pair
        return groups

    @property
    def tensors(self) -> Mapping[str, float | None]:
        """The largest difference of each tensor that is not bit-equal, ``None`` of other shapes."""
        return {one.name: one.largest for one in self.found.tensors}

    @cached_property
    def texts(self) -> Mapping[str, Pair]:
        """Every answer of the results that differs, by its place."""
        rest = self._outside()
        return {name: pair for name, pair in rest.items() if is_answer(tuple(name.split(".")))}

    @cached_property
    def fields(self) -> Mapping[str, Pair]:
        """Every other field of the results that differs, by its place."""
        return {name: pair for name, pair in self._outside().items() if name not in self.texts}

    @property
    def is_equal(self) -> bool:
        """Whether one question was asked, and the answer is the same bit for bit."""
        return self._same_kind and not (self._questions or self._apart)

    @property
    def verdict(self) -> str:
        """The whole in one sentence."""
        if not self._same_kind:
            return f"no two results of one kind: {' and '.join(self.found.forms)}"
        if self._questions:
            same = "" if self._apart else ", with answers that are equal bit for bit"
            return f"other questions: {', '.join(self._questions)}{same}"
        others = [name for group in (MODEL, RAN, MACHINE) for name in self._names(group)]
        if not self._apart:
            return "equal bit for bit" + (f", with other {', '.join(others)}" if others else "")
        why = f"other {', '.join(others)}" if others else "nothing that is recorded says why"
        asked = "same question to another model" if self._other_model else "same question"
        return f"{asked}, {self._size}: {why}"

    @property
    def _same_kind(self) -> bool:
        return self.found.forms[0] == self.found.forms[1]

    @property
    def _apart(self) -> bool:
        """Whether anything that was found differs."""
        return bool(self.found.tensors or self.texts or self.fields)

    @property
    def _questions(self) -> list[str]:
        """What was asked otherwise, as far as both say it."""
        return self._names(ASKED)

    @property
    def _other_model(self) -> bool:
        return "weights" in self._names(MODEL)

    @property
    def _size(self) -> str:
        """How far the results lie apart."""
        sizes = self.tensors
        name = "scores" if "scores" in sizes else next(iter(sizes), None)
        said = []
        if None in sizes.values():
            said.append("tensors have other shapes")
        elif name is not None:
            largest = sizes["scores"] if name == "scores" else max(map(float, _known(sizes)))
            what = "scores" if name == "scores" else "numbers"
            said.append(f"{what} differ by at most {largest:.2g}")
        if self.texts:
            said.append(f"{len(self.texts)} of {self.found.n_texts} texts differ")
        return " and ".join(said) or f"{', '.join(self.fields)} differ"

    def _names(self, group: str) -> list[str]:
        """What differs in a group, in plain words, as far as both say it."""
        pairs = self.groups[group].items()
        words = dict.fromkeys(_word(path) for path, pair in pairs if UNSAID not in pair)
        held = {path[-1:] for path in self.found.paths - self.found.leaves.keys()}
        if ("fingerprint",) in held:  # of the same weights another name or path says nothing
            words.pop("model", None)
        return list(words)

    def _outside(self) -> dict[str, Pair]:
        """What differs and belongs to no recipe."""
        return {
            ".".join(path): pair
            for path, pair in self.found.leaves.items()
            if not _inside_recipe(path)
        }

    def _is_held_alike(self, path: tuple[str, ...]) -> bool:
        """Whether a setting names a file by another path, whose digest is the same in both."""
        digest = (*path[:-1], f"{path[-1]}_sha256")
        held = self.found.paths - self.found.leaves.keys()
        return path[-2:-1] == ("settings",) and digest in held


def _known(sizes: Mapping[str, float | None]) -> Iterable[float]:
    return (size for size in sizes.values() if size is not None)


@checked(ResultError)
def compare_runs(first: str | Path, second: str | Path) -> dict[str, RunDifference | None]:
    """What sets apart two directories that commands wrote to, or two files of results.

    Args:
        first, second: directories, whose files are compared by name, or files.

    Returns:
        By name of the file, what differs; ``None`` of a file that only one of two directories has.

    Raises:
        ResultError: if one of them does not exist, holds no results, or is damaged.
    """
    ours, theirs = _results_of(first), _results_of(second)
    if len(ours) == len(theirs) == 1:
        (path,), (other,) = ours.values(), theirs.values()
        return {path.name: RunDifference((path, other), compare_files(path, other))}
    return {
        name: RunDifference((ours[name], theirs[name]), compare_files(ours[name], theirs[name]))
        if name in ours and name in theirs
        else None
        for name in dict.fromkeys([*ours, *theirs])
    }


def _results_of(path: str | Path) -> dict[str, Path]:
    """The results in a directory, by their names in it; or the one that a path names."""
    place = as_path(path)
    if not place.is_dir():
        file = saved_path(place)
        if not file.is_file():
            raise ResultError(f"there is no {path}: expected a directory with results, or a result")
        return {file.name: file}
    files = [file for file in sorted(place.rglob("*.safetensors")) if is_sealed(file)]
    if not files:
        raise ResultError(f"there are no results in {place}: expected what a command wrote")
    return {file.relative_to(place).as_posix(): file for file in files}


def _inside_recipe(path: tuple[str, ...]) -> tuple[str, ...]:
    """The part of a path inside of the innermost provenance; empty outside of all."""
    if "provenance" not in path:
        return ()
    return path[len(path) - path[::-1].index("provenance") :]


def _group_of(inner: tuple[str, ...]) -> str:
    """Where a leaf of a recipe belongs."""
    name = inner[1] if inner[0] == "settings" and len(inner) > 1 else inner[0]
    return FOUND if name.startswith("judged") else _GROUP_OF.get(name, ASKED)


def _word(path: str) -> str:
    """A leaf of a recipe in plain words."""
    names = path.split(".")
    name = names[1] if names[0] in _INSIDE and len(names) > 1 else names[0]
    return _WORDS.get(name, name)
