"""``icl-locate runs list|show|verify|merge|prune``: looking after a store of answers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

DAMAGED = 1  # the exit status that says so


@dataclass(frozen=True)
class ListConfig:
    """List the runs of a store: what they asked, how they ended, how much of them is kept."""

    store: Annotated[Path, tyro.conf.Positional]
    """The directory that --store named."""


@dataclass(frozen=True)
class ShowConfig:
    """Show a run of a store: its options, its recipe, and what is still missing."""

    store: Annotated[Path, tyro.conf.Positional]
    """The directory that --store named."""

    run: Annotated[str, tyro.conf.Positional] = ""
    """The run's name, as list prints it. Default: the latest."""


@dataclass(frozen=True)
class VerifyConfig:
    """Read every byte of a store, and name what is damaged; the exit status is then 1.

    A run computes damaged units again by itself.
    """

    store: Annotated[Path, tyro.conf.Positional]
    """The directory that --store named."""


@dataclass(frozen=True)
class MergeConfig:
    """Copy what some stores hold into another; nothing that is whole is replaced."""

    into: Annotated[Path, tyro.conf.Positional]
    """The store that takes them; made if it is not there."""

    stores: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The stores that are copied."""


@dataclass(frozen=True)
class PruneConfig:
    """Say what a store can do without: what is half-written, damaged, or used by no run.

    Nothing is removed without --yes. The damaged record of a run stays, and all units with it,
    until --runs names it.
    """

    store: Annotated[Path, tyro.conf.Positional]
    """The directory that --store named."""

    runs: tuple[str, ...] = ()
    """Runs that are to go, too, with the answers that no other run uses."""

    yes: bool = False
    """Remove it."""


def run_list(config: ListConfig) -> int:
    """Print a line for each run."""
    from icl_locate.records.upkeep import kept_units, open_store, read_runs, state_of
    from icl_locate.report.tables import align_table

    store = open_store(config.store)
    kept, rows = kept_units(store), list[tuple[str, ...]]()
    for name, run in read_runs(store).items():
        if run is None:
            rows.append((name, "damaged", "", "", "", "", ""))
            continue
        there = len(kept & run.units.keys())
        metric = str(run.recipe.get("signature", "")).partition("|")[0]
        recipe = (*(_plain(run.recipe.get(key, "")) for key in ("model", "task")), _plain(metric))
        share = f"{there}/{len(run.units)}"
        rows.append((name, state_of(run), _plain(run.study), *recipe, share))
    if not rows:
        print(f"{config.store} holds no runs, and {len(kept)} units")
        return 0
    headers = ("run", "state", "study", "model", "task", "metric", "units")
    print(align_table(headers, rows))
    print(f"\n{len(rows)} runs, {len(kept)} units")
    return 0


def run_show(config: ShowConfig) -> int:
    """Print what is known of a run."""
    from icl_locate.errors import ResultError
    from icl_locate.records.upkeep import kept_units, open_store, read_runs, state_of

    store = open_store(config.store)
    records = read_runs(store)
    name = config.run or max(records, default="")
    run = records.get(name)
    if run is None:
        known = ", ".join(records) or "none"
        what = "is damaged" if name in records else "is not there"
        raise ResultError(f"the run {name!r} {what}: {config.store} holds {known}")
    missing = sorted(run.units.keys() - kept_units(store))
    print(f"run      {name}\nstudy    {_plain(run.study)}\nstate    {state_of(run)}")
    if run.why:
        print(f"why      {_plain(run.why)}")
    print(f"began    {_plain(run.began)}\nended    {_plain(run.ended) or 'not known'}")
    print(f"where    {_plain(run.host)}, process {run.process}")
    print(f"units    {len(run.units) - len(missing)} of {len(run.units)} are kept")
    for title, said in (("options", run.settings), ("recipe", run.recipe)):
        if said:
            print(f"\n{title}\n{_lines(said)}")
    return 0


def run_verify(config: VerifyConfig) -> int:
    """Print what is damaged."""
    from icl_locate.records.upkeep import find_damage, kept_units, open_store

    store, n_damaged = open_store(config.store), 0
    for damage in find_damage(store):
        n_damaged += 1
        print(_plain(damage.why))
    print(f"{n_damaged} damaged files among {len(kept_units(store))} units and their runs")
    return DAMAGED if n_damaged else 0


def run_merge(config: MergeConfig) -> int:
    """Copy, and say how much."""
    from icl_locate.records.store import Store
    from icl_locate.records.upkeep import merge, open_store

    sources = [open_store(place) for place in config.stores]
    counts = merge(Store.at(config.into), sources)
    print(f"{counts['copied']} files copied into {config.into}, {counts['there']} were there")
    if counts["damaged"]:
        print(
            f"{counts['damaged']} are damaged, and were left out: icl-locate runs verify names them"
        )
    return DAMAGED if counts["damaged"] else 0


def run_prune(config: PruneConfig) -> int:
    """Say what can go, and remove it if that was asked for."""
    from icl_locate.records.upkeep import find_waste, open_store

    waste = find_waste(open_store(config.store), config.runs)
    for title in ("runs", "leftovers", "damaged", "unused"):
        paths = getattr(waste, title)
        size = sum(path.stat().st_size for path in paths if path.exists())
        print(f"{title:<10} {len(paths)} files, {size / 1e6:.1f} MB")
    if not config.yes:
        print("nothing was removed: add --yes to remove them" if waste.paths else "nothing to do")
        return 0
    waste.remove()
    print(f"removed {len(waste.paths)} files")
    return 0


STORES: Mapping[str, tuple[type, Callable[[Any], int]]] = {
    "list": (ListConfig, run_list),
    "show": (ShowConfig, run_show),
    "verify": (VerifyConfig, run_verify),
    "merge": (MergeConfig, run_merge),
    "prune": (PruneConfig, run_prune),
}
"""By its name, what a command takes and what it does."""


def _lines(said: Mapping[str, Any]) -> str:
    """A mapping, one line an entry."""
    return "\n".join(
        f"  {_plain(key)}: {json.dumps(value, ensure_ascii=True)}" for key, value in said.items()
    )


def _plain(value: Any) -> str:
    """A text from a file, without what a terminal would act on."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
