"""Benchmark of recognition layers: ``python tests/benchmarks/location.py``.

Simulated sweeps whose recognition layer is known, in many settings; `icl.locate` beside the plug-in
estimate with the paired bootstrap that it replaced, the layer of the largest jump, and the first
crossing. Then sweeps in which the context does nothing, and the interval of the effect. Writes
numbers and a table into ``docs/``; settings may be run by name, and leave the others' numbers as
they are. ``docs/location_figures.py`` draws what was found.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import icl_locate as icl
from icl_locate.metrics import find_scorer, score_totals
from icl_locate.records.files import check_output, replace_file

sys.path.append(str(Path(__file__).parents[1]))
from simulated import THRESHOLD, Simulated, result_of

DOCS = Path(__file__).parents[2] / "docs"
FILES = "location_benchmark.json", "location_table.md"
SIZES = (32, 1), (64, 3), (128, 5)
CHUNK = 50  # replications at once
Found = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """Locate layers that are known."""

    replications: int = 300
    """Simulated sweeps of each setting."""
    n_resamples: int = 1000
    """Curves that `locate` draws for an interval."""
    n_plugin: int = 200
    """Resamples of the paired bootstrap."""
    only: str = ""
    """Only settings whose name holds this."""
    output: Path = DOCS
    """Directory for location_benchmark.json and location_table.md."""


def settings() -> Iterator[tuple[str, Simulated]]:
    """Each with the group that the table shows it in."""
    for correlation, name in ((0, "independent"), (0.9, "correlated .9"), (1, "all alike")):
        for n_items, n_seeds in SIZES:
            for ceiling in (0.4, 0.7, 0.95):
                yield (
                    f"a step in 32 layers, {name}",
                    Simulated("step", 32, 12, n_items, n_seeds, ceiling, correlation),
                )
    for correlation in (0, 0.9, 1):
        yield "a step in 12 layers", Simulated(n_layers=12, layer=6, correlation=correlation)
        yield "a sharp rise", Simulated("sharp", correlation=correlation)
        yield "a step in 60 or 80 layers", Simulated(n_layers=60, correlation=correlation)
    yield "a step in 12 layers", Simulated("step", 12, 6, 32, 1, 0.4, 0.9)
    yield "a step in 12 layers", Simulated("step", 12, 6, 128, 5, 0.95, 0)
    yield "a step in 60 or 80 layers", Simulated("step", 60, 12, 32, 1, 0.4, 0.9)
    yield "a step in 60 or 80 layers", Simulated("step", 60, 12, 128, 5, 0.4, 0)
    yield from ((group, Simulated(**options)) for group, options in _shapes())
    yield from _sizes()


def _shapes() -> Iterator[tuple[str, dict[str, Any]]]:
    large = {"n_items": 128, "n_seeds": 5}
    for shape in ("ramp", "ramp past", "creep"):
        for options in ({"correlation": 0}, {}, large, {"correlation": 1}):
            yield "a ramp, a creep", {"shape": shape, "layer": 16, **options}
    for shape in ("dip", "dip of 3", "shallow dip"):
        group = "a dip of .15" if shape == "shallow dip" else "a dip of .3 in 1 or 3 layers"
        for options in ({"correlation": 0}, {}, {"ceiling": 0.4}, large):
            yield group, {"shape": shape, **options}
    for options in ({"correlation": 0}, {}, large):
        yield "Llama-3.1-8B's curve", {"shape": "Llama", "ceiling": 0.42, **options}
    for correlation in (0, 0.9):
        own = {"correlation": correlation}
        for shape in ("overshoot", "at .93"):
            yield "a plateau that is not level", {"shape": shape, **own}
        yield "a rise up to the end", {"shape": "linear", **own}
        few = {"n_layers": 8, "n_items": 32, "n_seeds": 1}
        yield "a rise up to the end, 8 layers, 1 seed", {"shape": "linear", **few, **own}
        yield "a slow approach", {"shape": "slow", "layer": 16, **own}
        for shape in ("late", "last rise"):
            yield "a rise at the last two layers", {"shape": shape, **own}
        for shape in ("two dips", "wide dip", "dip at the end"):
            yield "two dips, a wide one, one at the end", {"shape": shape, **own}
        yield "a step, seeds differ", {"seed_by_layer": 0.1, **own}
        yield "a step, seeds differ", {"seed_level": 0.7, **own}
        for shape, layer in (("step", 12), ("ramp past", 16), ("dip", 12)):
            yield (
                "BLEU: a step, a ramp, a dip",
                {"shape": shape, "layer": layer, "metric": "bleu", **own},
            )
    yield "a step, seeds differ", {"seed_by_layer": 0.1, **large}


def _sizes() -> Iterator[tuple[str, Simulated]]:
    for correlation in (0, 0.9):
        own = {"correlation": correlation}
        yield "a step in 60 or 80 layers", Simulated(n_layers=80, layer=30, **own)
        for layer in (2, 28):
            yield "a rise at layer 2 or 28 of 32", Simulated(layer=layer, **own)
        for n_items, n_seeds in ((16, 4), (200, 2)):
            yield "a step, other sizes", Simulated(n_items=n_items, n_seeds=n_seeds, **own)
        yield "a step, other sizes", Simulated(n_layers=8, layer=4, n_items=24, **own)
    for n_layers in (24, 48, 80):
        yield (
            "a step at layer 6 of 24, 48, 80",
            Simulated(n_layers=n_layers, layer=6, correlation=0),
        )
    for n_seeds in (1, 3, 5):
        for n_items in (16, 32, 64, 128, 256):
            differ = Simulated("ramp past", 32, 16, n_items, n_seeds, seed_by_layer=0.05)
            yield f"a ramp, seeds differ: {n_seeds} of them", differ


def nothing() -> Iterator[Simulated]:
    """Sweeps in which hiding the context changes nothing."""
    for n_items, n_seeds in SIZES:
        for correlation in (0, 0.9):
            yield Simulated("nothing", 32, 12, n_items, n_seeds, correlation=correlation)
    for options in ({"seed_by_layer": 0.1}, {"n_layers": 80}, {"metric": "bleu"}, {"n_items": 16}):
        yield Simulated("nothing", **options)


def effects() -> Iterator[Simulated]:
    """Sweeps whose effect is held against its interval."""
    for options in ({"seed_level": 0}, {}, {"seed_level": 0.7}, {"seed_by_layer": 0.1}):
        for n_seeds in (1, 3, 5):
            yield Simulated(n_layers=4, layer=2, n_seeds=n_seeds, **options)


def name_of(simulated: Simulated) -> str:
    """Everything that it is, in a line."""
    known = asdict(simulated)
    shape, n_items, n_seeds = (known.pop(key) for key in ("shape", "n_items", "n_seeds"))
    said = [f"{shape} {n_items}x{n_seeds}", f"{known.pop('n_layers')} layers"]
    for key, word in (("ceiling", "ceiling"), ("correlation", "correlated")):
        said.append(f"{word} {known.pop(key):g}")
    default = asdict(Simulated())
    said += [f"{key} {value}" for key, value in known.items() if value != default[key]]
    return ", ".join(said).replace("_", " ")


def plug_in(statistics: np.ndarray, metric: str, n_resamples: int) -> np.ndarray:
    """Layer, low and high of each replication: for good on the measured curve; paired resamples.

    Every resample draws items and seeds with replacement, the same for all layers.
    """
    n_seeds, n_items = statistics.shape[2:4]
    generator = np.random.default_rng(7)
    items = generator.multinomial(n_items, np.full(n_items, 1 / n_items), size=n_resamples)
    seeds = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_resamples)
    scorer = find_scorer(metric, None, {})
    found = []
    for table in statistics:
        drawn = np.tensordot(items.astype(float), table, axes=(1, 2))
        scores = score_totals(scorer, drawn)  # resample, layer, seed
        curves = np.einsum("bls,bs->bl", scores, seeds / n_seeds)
        measured = score_totals(scorer, table.sum(axis=-2)).mean(axis=-1)
        ends = np.quantile(for_good(curves), (0.025, 0.975), method="nearest")
        found.append((int(for_good(measured)), *ends.astype(int).tolist()))
    return np.array(found, dtype=int).reshape(-1, 3)


def for_good(curves: np.ndarray) -> np.ndarray:
    """The definition, on curves as they were measured."""
    below = ~_reached(curves)[..., ::-1]
    below[..., 0] = False  # with nothing hidden all is recovered
    n_layers = curves.shape[-1]
    return n_layers - np.where(below.any(-1), below.argmax(-1), n_layers)


def first_crossing(curves: np.ndarray) -> np.ndarray:
    """The first layer at the threshold, whatever comes behind it."""
    reached = _reached(curves)
    reached[..., -1] = True
    return reached.argmax(-1)


def largest_jump(curves: np.ndarray) -> np.ndarray:
    """The layer whose score rises most above that of the layer before it."""
    return 1 + np.diff(curves).argmax(-1)


def _reached(curves: np.ndarray) -> np.ndarray:
    floor, ceiling = curves[..., :1], curves[..., -1:]
    return (curves >= floor + THRESHOLD * (ceiling - floor) - 1e-9) & (ceiling > floor)


def measure(simulated: Simulated, config: Config) -> Found:
    """One setting's row; all methods on the replications in which `locate` found an effect."""
    parts: dict[str, list[np.ndarray]] = {}
    for first in range(0, config.replications, CHUNK):
        statistics = simulated.statistics(min(CHUNK, config.replications - first), first)
        result = result_of(statistics, simulated.metric)
        located = icl.locate(result, n_resamples=config.n_resamples)
        kept = [i for i, found in enumerate(located) if found.layer is not None]
        known = [located[i] for i in kept]
        curves = result.scores.numpy().mean(axis=-1)[kept]
        chunk = {
            "locate": [(found.layer, *found.interval) for found in known],
            "plug-in": plug_in(statistics[kept], simulated.metric, config.n_plugin),
            "largest jump": largest_jump(curves)[:, None],
            "first crossing": first_crossing(curves)[:, None],
            "more": [(found.upper_any, found.verdict != "not resolved") for found in known],
        }
        for name, rows in chunk.items():
            parts.setdefault(name, []).extend(np.array(row, dtype=int) for row in rows)
    truth, more = simulated.truth, np.array(parts.pop("more"))
    return {
        **asdict(simulated),
        "truth": truth,
        "replications": config.replications,
        "effects": round(len(more) / config.replications, 4),
        "resolved": _mean(more[:, 1]),
        "upper_any": _mean(more[:, 0] >= truth),
        "methods": {name: _summary(np.array(rows), truth) for name, rows in parts.items()},
    }


def _summary(found: np.ndarray, truth: int) -> Found:
    """Of rows of a layer, and its interval where there is one."""
    layer, *ends = found.T
    summary = {"exact": _mean(layer == truth), "bias": _mean(layer - truth)}
    if ends:
        low, high = ends
        summary["coverage"] = _mean((low <= truth) & (truth <= high))
        summary["width"] = _mean(high - low)
    return summary


def _mean(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 4)


def measure_nothing(simulated: Simulated, config: Config) -> Found:
    """How often an effect is found where there is none."""
    found: list[str] = []
    for first in range(0, 3 * config.replications, CHUNK):
        result = simulated.result(CHUNK, first)
        found += [each.verdict for each in icl.locate(result, n_resamples=config.n_resamples)]
    counts = {verdict: found.count(verdict) for verdict in sorted({*found})}
    risen = len(found) - counts.get("no effect", 0) - counts.get("context harms", 0)
    return {
        **asdict(simulated),
        "replications": len(found),
        "effects": round(risen / len(found), 4),
        "harms": round(counts.get("context harms", 0) / len(found), 4),
        "verdicts": counts,
    }


def measure_effect(simulated: Simulated, config: Config) -> Found:
    """How often the interval of the effect holds it."""
    truth, found = simulated.effect, []
    for first in range(0, 3 * config.replications, CHUNK):
        located = icl.locate(simulated.result(CHUNK, first), n_resamples=1)
        found += [each.effect[1:] for each in located]
    low, high = np.array(found).T
    return {
        **asdict(simulated),
        "replications": len(found),
        "effect": round(truth, 4),
        "coverage": _mean((low <= truth) & (truth <= high)),
        "width": _mean(high - low),
    }


METHODS = "locate", "plug-in", "largest jump", "first crossing"


def tables(record: Found) -> str:
    """The tables of the docs: means over the settings of each group."""
    settings = list(record["settings"].values())
    groups = {group: [] for group in dict.fromkeys(row["group"] for row in settings)}
    for row in settings:
        groups[row["group"]].append(row)
    groups["**all**"] = settings
    intervals = ["settings", "coverage", "lowest", "width", "plug-in: coverage", "width"]
    others = ["plug-in", "jump", "crossing"]
    layers = ["exact: locate", *others, "bias: locate", *others]
    parts = [
        _table(["the interval, of sweeps with", *intervals], map(_interval_row, groups.items())),
        _table(["the layer, of sweeps with", *layers], map(_layer_row, groups.items())),
    ]
    if record["nothing"]:
        rows = [
            [name.removeprefix("nothing "), f"{row['effects']:.3f}", f"{row['harms']:.3f}"]
            for name, row in record["nothing"].items()
        ]
        parts.append(_table(["no effect in truth", "effects", "context harms"], rows))
    if record["effects"]:
        parts.append(_effects_table(list(record["effects"].values())))
    return "\n".join(parts)


def _interval_row(item: tuple[str, Sequence[Found]]) -> list[str]:
    group, rows = item
    ours, old = (_means(rows, method) for method in METHODS[:2])
    lowest = min(row["methods"]["locate"]["coverage"] for row in rows)
    return [
        group, str(len(rows)), f"{ours['coverage']:.3f}", f"{lowest:.2f}", f"{ours['width']:.1f}",
        f"{old['coverage']:.3f}", f"{old['width']:.1f}",
    ]  # fmt: skip


def _layer_row(item: tuple[str, Sequence[Found]]) -> list[str]:
    group, rows = item
    found = [_means(rows, method) for method in METHODS]
    biases = [round(x["bias"], 1) + 0.0 for x in found]  # no -0.0
    return [group, *(f"{x['exact']:.2f}" for x in found), *(f"{bias:+.1f}" for bias in biases)]


def _means(rows: Sequence[Found], method: str) -> Found:
    known = [row["methods"][method] for row in rows]
    return {name: float(np.mean([each[name] for each in known])) for name in known[0]}


def _effects_table(rows: Sequence[Found]) -> str:
    """Coverage of the effect's interval: a row for each way in which seeds differ."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        differ = f"{row['seed_level']:g} at all layers, {row['seed_by_layer']:.0%} at each"
        lines.setdefault(differ, [differ]).append(f"{row['coverage']:.3f}")
    head = ["the effect's interval, where seeds differ by", "1 seed", "3 seeds", "5 seeds"]
    return _table(head, list(lines.values()))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(config: Config) -> None:
    """Measure, and write what was found."""
    check_output(config.output, FILES)
    written = config.output / FILES[0]
    record: Found = {"settings": {}, "nothing": {}, "effects": {}}
    if config.only and written.exists():
        record = json.loads(written.read_text("utf-8"))
    groups = {name_of(one): group for group, one in settings()}
    for part, simulated, function in (
        ("settings", [one for _, one in settings()], measure),
        ("nothing", nothing(), measure_nothing),
        ("effects", effects(), measure_effect),
    ):
        for each in simulated:
            name = name_of(each)
            if config.only in f"{part}: {groups.get(name, '')}: {name}":
                found = function(each, config)
                record[part][name] = {"group": groups.get(name, part), **found}
                print(f"{name}: {_brief(found)}", flush=True)
    text = tables(record)
    replace_file(written, [f"{json.dumps(record, indent=1)}\n".encode()])
    replace_file(config.output / FILES[1], [text.encode()])
    print(text)


def _brief(found: Found) -> str:
    """A row's numbers in a line."""
    shown = found["methods"]["locate"] if "methods" in found else found
    return ", ".join(
        f"{name} {shown[name]:.3g}"
        for name in ("coverage", "width", "exact", "bias", "effects", "harms")
        if name in shown
    )


if __name__ == "__main__":
    main(tyro.cli(Annotated[Config, tyro.conf.OmitArgPrefixes]))
