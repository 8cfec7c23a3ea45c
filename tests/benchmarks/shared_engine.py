"""Benchmark of the shared engine: ``python tests/benchmarks/shared_engine.py``.

Three ways to the same numbers, in turn in one run on the same inputs: the loop of hooked runs, a
loop of plain Hugging Face eager attention with the mask (as scripts for the papers do it), and the
shared engine. Outputs are compared, ratios are of medians. Then the engine's growth over layers and
shots. Writes numbers, a table and a figure into ``docs/``; each part may be run by itself, and
leaves the other parts' numbers as they are.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import plotly.graph_objects as go
import torch
import tyro
from floor import clean_flops, generation_flops, layer_flops, scoring_flops
from plotly.subplots import make_subplots
from random_llama import (
    Shape,
    build,
    hugging_face_answers,
    hugging_face_loop,
    random_prompts,
)
from torch import Tensor
from turns import DOCS, in_turn, machine

import icl_locate as icl
from icl_locate.engine.budget import Cost
from icl_locate.engine.shared.decoding import generate_many
from icl_locate.engine.shared.scoring import score_many
from icl_locate.plots import DASHES, PALETTE
from icl_locate.records.files import check_output, replace_file
from icl_locate.savings.memory import peak_bytes

Part = Literal["log-prob", "generation", "growth"]
PARTS: tuple[Part, ...] = ("log-prob", "generation", "growth")
KEPT = icl.PAPER_CONDITIONS[2]  # examples hidden, instructions kept
SHOT = 50  # tokens of an example, in the growth figure
BESIDES = 64  # tokens of BOS, instruction and query there


@dataclass(frozen=True)
class Config:
    """Compare the shared engine with two loops."""

    parts: tuple[Part, ...] = PARTS
    """What to measure."""
    shape: Shape = field(default_factory=Shape)
    """Of the random model."""
    n_tokens: int = 320
    """Tokens a prompt."""
    hidden: float = 0.8
    """Share of them that are examples."""
    n_prompts: int = 1
    """Prompts to score."""
    n_asked: int = 8
    """Prompts to answer."""
    n_new: int = 32
    """New tokens of each answer."""
    batch_size: int = 16
    """Prompts that run at once."""
    n_runs: int = 5
    """Alternating runs, of which medians are taken."""
    growth_layers: tuple[int, ...] = (6, 12, 24)
    """Depths of the growth figure, whose model is 512 wide."""
    growth_shots: tuple[int, ...] = (1, 5, 10, 20)
    """Its numbers of examples, of 50 tokens each."""
    device: str = "cpu"
    """Where to run."""
    dtype: Annotated[str, tyro.conf.arg(metavar="float32|bfloat16")] = "float32"
    """Of the weights."""
    output: Path = DOCS
    """Folder of the numbers, the table and the figure."""


def masks_of(condition: icl.Condition, n_layers: int) -> list[icl.ContextMask]:
    """The condition's masks from every start layer, the last of which hides nothing."""
    return [condition.mask(icl.from_layer(start)) for start in range(n_layers + 1)]


def compare_scores(config: Config, conditions: Sequence[icl.Condition]) -> dict[str, Any]:
    """One row of the table: medians, ratios, floor, memory, and the largest difference."""
    shape = config.shape
    bridge, plain = build(shape, config.device, getattr(torch, config.dtype))
    n_examples = round(config.hidden * config.n_tokens)
    grids = [
        (
            random_prompts(config.n_prompts, config.n_tokens, n_examples, instruction=instruction),
            [
                mask
                for condition in conditions
                if condition.instruction == instruction
                for mask in masks_of(condition, shape.n_layers)
            ],
        )
        for instruction in sorted({condition.instruction for condition in conditions})
    ]

    def over_grids(run: Callable[[icl.Prompts, Sequence[icl.ContextMask]], Tensor]) -> Tensor:
        return torch.cat(
            [
                torch.cat([run(some, masks) for some in prompts.batches(config.batch_size)], dim=1)
                for prompts, masks in grids
            ]
        )

    def hooks_loop(prompts: icl.Prompts, masks: Sequence[icl.ContextMask]) -> Tensor:
        return torch.stack([icl.score_targets(bridge, prompts, mask) for mask in masks])

    prompts = grids[0][0]
    ways: dict[str, Callable[[], Tensor]] = {
        "hooks loop": lambda: over_grids(hooks_loop),
        "Hugging Face loop": lambda: over_grids(lambda p, m: hugging_face_loop(plain, p, m)),
        "shared": lambda: over_grids(lambda p, m: score_many(bridge, p, m)),
        "one clean pass": lambda: icl.score_targets(bridge, prompts, batch_size=config.batch_size),
    }
    seconds, outcomes = in_turn(ways, config.n_runs)
    n_tokens = config.n_tokens + len(prompts.target_tokens[0])
    floor = sum(scoring_flops(shape, prompts, masks) for prompts, masks in grids)
    passes = floor / clean_flops(shape, config.n_prompts, n_tokens)
    one = prompts[:1]
    ours = peak_bytes(lambda: score_many(bridge, one, grids[0][1]))
    clean = peak_bytes(lambda: icl.score_targets(bridge, one))
    in_flight = Cost.of(bridge, one, grids[0][1], 0).total
    return {
        "work": f"log-probabilities, {shape.n_layers + 1} start layers, "
        f"{len(conditions)} condition{'s' if len(conditions) > 1 else ''}",
        "seconds": seconds,
        "passes": passes,
        "floor reached": seconds["one clean pass"] * passes / seconds["shared"],
        "memory a token": (ours / in_flight) / (clean / n_tokens),
        "memory": ours / clean,
        "agreement": "differs by {:.0e}".format(
            max(
                (outcomes[way] - outcomes["hooks loop"]).abs().max().item()
                for way in ("Hugging Face loop", "shared")
            )
        ),
    }


def compare_answers(config: Config) -> dict[str, Any]:
    """The row for generation: every start layer of one condition, answers compared."""
    shape = config.shape
    bridge, plain = build(shape, config.device, getattr(torch, config.dtype))
    n_examples = round(config.hidden * config.n_tokens)
    prompts = random_prompts(config.n_asked, config.n_tokens, n_examples)
    masks, n_new = masks_of(KEPT, shape.n_layers), config.n_new
    # the speed of decoding as many rows at once, without what keys and values of a prompt cost
    many, n_steps = random_prompts(len(masks) * config.n_asked, 3, 0), 16
    ways: dict[str, Callable[[], Any]] = {
        "hooks loop": lambda: [icl.generate(bridge, prompts, mask, n_new, ()) for mask in masks],
        "Hugging Face loop": lambda: hugging_face_answers(plain, prompts, masks, n_new),
        "shared": lambda: generate_many(bridge, prompts, masks, n_new, ()),
        "one clean pass": lambda: icl.generate(bridge, prompts, None, 1, ()),
        "clean decoding": lambda: icl.generate(bridge, many, None, n_steps + 1, (), batch_size=999),
        "its start": lambda: icl.generate(bridge, many, None, 1, (), batch_size=999),
    }
    seconds, outcomes = in_turn(ways, config.n_runs)
    tokens: Tensor = outcomes["Hugging Face loop"]
    decode = bridge.tokenizer.batch_decode
    written = [[text.strip() for text in decode(row, skip_special_tokens=True)] for row in tokens]
    answers = [sum(texts, []) for texts in (written, outcomes["hooks loop"], outcomes["shared"])]  # noqa: RUF017
    equal = sum(len(set(some)) == 1 for some in zip(*answers, strict=True))
    of_prompts, of_new = generation_flops(shape, prompts, masks, tokens)
    passes = of_prompts / clean_flops(shape, config.n_asked, config.n_tokens)
    steps = of_new / (shape.n_layers * layer_flops(shape, len(many), 1))
    a_step = (seconds["clean decoding"] - seconds["its start"]) / n_steps
    floor = passes * seconds["one clean pass"] + steps * a_step
    ours = peak_bytes(lambda: generate_many(bridge, prompts, masks, n_new, ()))
    ordinary = peak_bytes(lambda: icl.generate(bridge, prompts, None, n_new, ()))
    in_flight = len(prompts) * Cost.of(bridge, prompts, masks, n_new).total
    return {
        "work": f"generation, {n_new} new tokens, {len(masks)} start layers, 1 condition, "
        f"{len(prompts)} prompts",
        "seconds": seconds,
        "passes": passes,
        "steps": steps,
        "seconds a step": a_step,
        "floor reached": floor / seconds["shared"],
        "memory a token": (ours / in_flight)
        / (ordinary / (tokens[0].numel() + prompts.tokens.numel())),
        "memory": ours / ordinary,
        "agreement": f"{equal} of {len(answers[0])} answers equal",
    }


def growth(config: Config) -> list[dict[str, Any]]:
    """The hooks loop and the shared engine over layers and shots, one condition."""
    rows: list[dict[str, Any]] = []
    for n_layers in config.growth_layers:
        shape = Shape(n_layers=n_layers, d_model=512, d_mlp=2048, n_kv_heads=8)
        bridge, _ = build(shape, config.device, getattr(torch, config.dtype))
        masks = masks_of(KEPT, n_layers)
        for n_shots in config.growth_shots:
            prompts = random_prompts(1, SHOT * n_shots + BESIDES, SHOT * n_shots)
            ways: dict[str, Callable[[], Any]] = {
                "hooks loop": lambda: [icl.score_targets(bridge, prompts, m) for m in masks],  # noqa: B023
                "shared": lambda: score_many(bridge, prompts, masks),  # noqa: B023
            }
            seconds, _ = in_turn(ways, config.n_runs)
            rows.append({"layers": n_layers, "shots": n_shots, "seconds": seconds})
    return rows


def table(rows: Sequence[dict[str, Any]], config: Config) -> str:
    """The rows in Markdown."""
    lines = [
        "| work | hooks loop | Hugging Face loop | shared | over hooks | over Hugging Face "
        "| floor reached | memory of a token | outputs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds, ours = row["seconds"], row["seconds"]["shared"]
        loops = [seconds["hooks loop"], seconds["Hugging Face loop"]]
        cells = [
            row["work"],
            *(f"{taken:.2f} s" for taken in (*loops, ours)),
            *(f"{taken / ours:.1f}x" for taken in loops),
            f"{100 * row['floor reached']:.0f} %",
            f"{row['memory a token']:.2f}x",
            row["agreement"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    shape = config.shape
    lines += [
        "",
        f"Medians of {config.n_runs} alternating runs; random Llama of {shape.n_layers} layers, "
        f"d={shape.d_model}, {config.n_tokens} tokens of which {100 * config.hidden:.0f} % are "
        f"examples, {config.n_prompts} prompt{'s' if config.n_prompts > 1 else ''} scored, "
        f"{config.dtype}; {machine(config.device)}.",
    ]
    return "\n".join(lines)


def figure(rows: Sequence[dict[str, Any]]) -> go.Figure:
    """Seconds and advantage over shots, a line for each depth."""
    found = make_subplots(
        cols=2,
        subplot_titles=("time for all start layers", "advantage over the hooks loop"),
        horizontal_spacing=0.12,
    )
    depths = sorted({row["layers"] for row in rows})
    for colour, n_layers in zip(PALETTE, depths, strict=False):
        mine = [row for row in rows if row["layers"] == n_layers]
        shots = [row["shots"] for row in mine]
        for way, dash in zip(("shared", "hooks loop"), DASHES, strict=False):
            found.add_scatter(
                x=shots,
                y=[row["seconds"][way] for row in mine],
                name=f"{way}, {n_layers} layers",
                line={"color": colour, "dash": dash},
                row=1,
                col=1,
            )
        found.add_scatter(
            x=shots,
            y=[row["seconds"]["hooks loop"] / row["seconds"]["shared"] for row in mine],
            name=f"{n_layers} layers",
            line={"color": colour},
            showlegend=False,
            row=1,
            col=2,
        )
    found.update_xaxes(
        title=f"shots (of {SHOT} tokens)", tickvals=sorted({r["shots"] for r in rows})
    )
    found.update_yaxes(title="seconds", type="log", dtick=1, row=1, col=1)
    found.update_yaxes(title="times faster", rangemode="tozero", row=1, col=2)
    found.update_layout(template="plotly_white", width=1000, height=420, margin={"t": 50})
    return found


def main(config: Config) -> None:
    """Run, write and print."""
    check_output(config.output, ("benchmark.json", "benchmark_table.md"))
    image = config.output / "figures" / "benchmark_growth.png"
    check_output(image.parent, (image.name,))
    written = config.output / "benchmark.json"
    parts: dict[str, Any] = json.loads(written.read_text("utf-8")) if written.exists() else {}
    for part in config.parts:
        if part == "log-prob":
            found: Any = [
                compare_scores(config, conditions) for conditions in ([KEPT], icl.PAPER_CONDITIONS)
            ]
        else:
            found = [compare_answers(config)] if part == "generation" else growth(config)
        parts[part] = found
        replace_file(written, [f"{json.dumps(parts, indent=1)}\n".encode()])
    text = table([*parts.get("log-prob", []), *parts.get("generation", [])], config)
    replace_file(config.output / "benchmark_table.md", [f"{text}\n".encode()])
    print(text)
    if "growth" in parts:
        replace_file(image, [figure(parts["growth"]).to_image("png", scale=2)])
        print(f"figure: {image}")


if __name__ == "__main__":
    main(tyro.cli(Config))
