"""``icl-locate runs``: what stands in the directories that commands wrote to.

A command of several: each is a frozen dataclass of its options and a function that runs it and
returns the exit status; both stand in a table here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from icl_locate.checks.arguments import show
from icl_locate.cli.stores import STORES

DIFFERENT = 1  # the exit status that says so, as diff has it
_SHOWN = 12  # differences of a group that are printed


@dataclass(frozen=True)
class CompareRunsConfig:
    """Say what sets two runs apart: what was asked, of which model, what ran it, what came out.

    Its last line says it in one sentence. The exit status is 0 if one question was asked and the
    answers are equal bit for bit, 1 if not, 2 if it cannot be told.
    """

    first: Annotated[Path, tyro.conf.Positional]
    """A directory that a command wrote to, or a file of a result."""

    second: Annotated[Path, tyro.conf.Positional]
    """Another one."""


def run_compare_runs(config: CompareRunsConfig) -> int:
    """Print what differs; returns the exit status."""
    from icl_locate.studies import compare_runs

    found = compare_runs(config.first, config.second)
    for name, one in found.items():
        print(*_lines(name, one), "", sep="\n")
    print(_verdict(found))
    return 0 if all(one is not None and one.is_equal for one in found.values()) else DIFFERENT


def _lines(name: str, found: Any) -> list[str]:
    """What sets two results of a name apart, a line or more for each kind of difference."""
    if found is None:
        return [name, "  only one of the two directories has it"]
    lines = [f"{found.paths[0]} and {found.paths[1]}"]
    if len(set(found.found.forms)) > 1:
        return [*lines, f"  they hold {found.found.forms[0]} and {found.found.forms[1]}"]
    for group, pairs in found.groups.items():
        lines += _pairs(group, pairs)
    n_tensors = f"{len(found.tensors)} of {found.found.n_tensors} tensors differ"
    lines.append(f"  numbers: {n_tensors if found.tensors else 'the same'}")
    for one in found.found.tensors:
        said = " | ".join(one.shapes)
        if one.largest is not None:
            said = f"{one.n_different} of {one.n_places} differ, by at most {one.largest:.3g}"
        lines.append(f"    {one.name}: {said}")
    if found.found.n_texts:
        n_texts = f"{len(found.texts)} of {found.found.n_texts} differ"
        lines.append(f"  texts: {n_texts if found.texts else 'the same'}")
    for place, pair in list(found.texts.items())[:1]:
        lines.append(f"    {place}: {_pair(pair)}")
    return lines + _pairs("other fields", found.fields) if found.fields else lines


def _pairs(group: str, pairs: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """What differs in a group, a line for each, as far as that can be read."""
    lines = [f"    {name}: {_pair(pair)}" for name, pair in list(pairs.items())[:_SHOWN]]
    more = [f"    ... and {len(pairs) - _SHOWN} more"] if len(pairs) > _SHOWN else []
    return [f"  {group}: {_same(pairs)}", *lines, *more]


def _same(differ: Mapping[str, Any]) -> str:
    return f"{len(differ)} differ" if differ else "the same"


def _pair(pair: tuple[Any, Any]) -> str:
    return " | ".join(map(show, pair))


def _verdict(found: Mapping[str, Any]) -> str:
    """All of it in one sentence."""
    apart = {name: one for name, one in found.items() if one is None or not one.is_equal}
    said = list(dict.fromkeys(one.verdict for one in (apart or found).values() if one is not None))
    if len(found) == 1 or not apart:
        return "; ".join(said)
    one_sided = len(apart) - sum(one is not None for one in apart.values())
    alone = [f"{one_sided} in one directory alone"] if one_sided else []
    return f"{len(apart)} of {len(found)} results differ: {'; '.join([*said, *alone])}"


_COMMANDS: Mapping[str, tuple[type, Callable[[Any], int]]] = {
    **STORES,
    "compare": (CompareRunsConfig, run_compare_runs),
}

RUNS: Mapping[type, Callable[[Any], int]] = dict(_COMMANDS.values())
"""By the type of its options, what each of the commands does."""

_named = [Annotated[kind, tyro.conf.subcommand(name)] for name, (kind, _) in _COMMANDS.items()]
RUNS_COMMANDS: Any = Annotated[
    Union[tuple(_named)],  # noqa: UP007 - the table is known when this runs
    tyro.conf.subcommand(
        "runs", description="Look at what stands in stores and in directories of results."
    ),
]
"""The options of all of them, as one command of the whole."""
