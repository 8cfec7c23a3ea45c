"""Benchmark of edits, ablations and peers: ``python tests/benchmarks/interventions.py``.

What ``shared_engine.py`` measures for masks, for everything else: all heads' effects at the last
token, task vectors from and to all layers, heads ablated at all positions, and an ablation study;
each by the loop of hooked runs, by a loop of plain Hugging Face runs with forward hooks, and by the
shared engine, in turn in one run on the same inputs. Then a mask's start layers and heads' effects
as other libraries' documents teach them (``peers.py``). Outputs are compared, ratios are of
medians. Writes numbers and tables into ``docs/``; each part may be run by itself, and leaves the
others' numbers as they are.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import tyro
from ablations import study_row
from floor import clean_flops, patch_flops
from induction import SMALL, give_tokenizer
from patches import (
    Patch,
    ablation,
    clean_pass,
    edited,
    first_tokens,
    in_grid,
    pairs,
    patched_one_by_one,
    target_log_probs,
    with_targets,
)
from peers import HAS_NNSIGHT, lens_masks, lens_patches, traced, traced_masks, traced_patches
from random_llama import (
    Shape,
    build,
    hidden_cells,
    hugging_face_loop,
    random_prompts,
    with_generated,
)
from rows import CLEAN, HOOKS, OURS, Row, Ways, measured, table
from shared_engine import KEPT, masks_of
from torch import Tensor
from transformers import LlamaForCausalLM
from turns import DOCS, Clock, machine

import icl_locate as icl
from icl_locate import induction
from icl_locate.models.bridge import Model
from icl_locate.records.files import check_output, replace_file

FILES = "interventions_benchmark.json", "interventions_table.md", "peers_table.md"
MEDIANS = {
    "wall": "Medians of {} alternating runs",
    "processor": "Medians of {} alternating runs, in seconds of processor time",
}
PLAIN = "Hugging Face loop"
NNSIGHT, LENS = "nnsight", "TransformerLens by hand"
Part = Literal["head-effects", "task-vectors", "head-losses", "ablation-study", "peers"]
PARTS: tuple[Part, ...] = get_args(Part)


built = cache(build)  # a large model stands once on its device


@dataclass(frozen=True)
class Config:
    """Compare the shared engine with loops and with other libraries."""

    parts: tuple[Part, ...] = PARTS
    """What to measure."""
    shape: Shape = field(default_factory=Shape)
    """Of the random model."""
    n_tokens: int = 150
    """Tokens a prompt, four fifths of which are examples."""
    n_prompts: int = 8
    """Prompts of the heads' effects at the last token."""
    n_short: int = 16
    """Tokens of a prompt without examples, into which task vectors go."""
    n_queries: int = 32
    """Such prompts, and prompts of the ablation study."""
    n_lost: int = 2
    """Prompts of the heads ablated at all positions."""
    n_masked: int = 320
    """Tokens of the prompt whose mask's start layers the peers run."""
    step: int = 3
    """Loops run every so many heads or pairs of layers, and their time is scaled to all."""
    n_shots: int = 10
    """Examples of the ablation study."""
    d_vocab: int = 50_257
    """Its models' vocabulary."""
    n_runs: int = 5
    """Alternating runs, of which medians are taken."""
    clock: Clock = "wall"
    """What is read: "processor" is not stretched by other processes, and knows no GPU."""
    device: str = "cpu"
    """Where to run."""
    dtype: Annotated[str, tyro.conf.arg(metavar="float32|bfloat16")] = "float32"
    """Of the weights."""
    output: Path = DOCS
    """Folder of the numbers and the tables."""

    @property
    def timing(self) -> dict[str, Any]:
        """How ways are timed."""
        return {"n_runs": self.n_runs, "clock": self.clock}

    def models(self) -> tuple[Model, LlamaForCausalLM]:
        """The random model, as a bridge and plain."""
        return built(self.shape, self.device, getattr(torch, self.dtype))

    def prompts(self, n_prompts: int, n_tokens: int) -> icl.Prompts:
        """Random prompts, four fifths of which are examples."""
        return random_prompts(n_prompts, n_tokens, n_tokens * 4 // 5)


def compare_patches(
    work: str, prompts: icl.Prompts, patches: Sequence[Patch], every: Sequence[int], config: Config
) -> Row:
    """Patches at the last token, by both loops and ours.

    Args:
        every: the patches that loops run.
    """
    bridge, plain = config.models()
    tokens, read = prompts.tokens, partial(first_tokens, prompts)
    few = [patches[i] for i in every]
    ways: Ways = {
        HOOKS: lambda: edited(bridge, prompts, few, "hooks"),
        PLAIN: lambda: patched_one_by_one(plain, tokens, few, read, 1),
        OURS: lambda: edited(bridge, prompts, patches, "shared"),
        CLEAN: lambda: clean_pass(bridge, prompts.tokens, read),
    }
    size = len(prompts), tokens.shape[1]
    floor = patch_flops(config.shape, *size, patches, 1) / clean_flops(config.shape, *size)
    return measured(
        work, ways, **config.timing, clean=ways[CLEAN](), picked=every,
        scale=len(patches) / len(few), passes=floor,
    )  # fmt: skip


def heads_at_last(config: Config) -> tuple[icl.Prompts, list[Patch], list[int]]:
    """Every head's output at the last token, replaced by its mean over other prompts."""
    shape = config.shape
    bridge, _ = config.models()
    shown = config.prompts(2 * config.n_prompts, config.n_tokens)
    prompts, others = shown[: config.n_prompts], shown[config.n_prompts :]
    means = icl.states(bridge, others, "last", point="z").mean(dim=1)[:, 0]
    heads = pairs(shape.n_layers, shape.n_heads)
    some = pairs(shape.n_layers, shape.n_heads, config.step)
    patches = [Patch(layer, means[layer, head], head) for layer, head in heads]
    return prompts, patches, [heads.index(head) for head in some]


def head_effects(config: Config) -> list[Row]:
    """Every head's indirect effect at the last token."""
    prompts, patches, every = heads_at_last(config)
    work = f"effects of {len(patches)} heads at the last token, {len(prompts)} prompts"
    return [compare_patches(work, prompts, patches, every, config)]


def task_vectors(config: Config) -> list[Row]:
    """The state at the last token, from every layer of longer prompts to every layer."""
    n_layers, n_short = config.shape.n_layers, config.n_short
    bridge, _ = config.models()
    prompts = random_prompts(config.n_queries, n_short, 0)
    states = icl.states(bridge, config.prompts(2, config.n_tokens), "last").mean(dim=1)[:, 0]
    both = pairs(n_layers, n_layers)
    every = [both.index(pair) for pair in pairs(n_layers, n_layers, config.step)]
    patches = [Patch(there, states[here]) for here, there in both]
    work = f"task vectors from and to {n_layers} layers, {len(prompts)} prompts of {n_short} tokens"
    return [compare_patches(work, prompts, patches, every, config)]


def head_losses(config: Config) -> list[Row]:
    """What the targets lose without a head: no scaling, all ways run the same part of the heads."""
    bridge, plain = config.models()
    shape, prompts = config.shape, config.prompts(config.n_lost, config.n_tokens)
    heads = pairs(shape.n_layers, shape.n_heads, config.step)
    patches = [ablation(shape, layer, head) for layer, head in heads]
    read, n_read = partial(target_log_probs, prompts), len(prompts.target_tokens[0]) + 1

    def ours(engine: str) -> Tensor:
        found = induction.head_effects(bridge, prompts, heads, engine=engine)
        return found.clean - found.losses

    tokens = with_targets(prompts)
    ways: Ways = {
        HOOKS: lambda: ours("hooks"),
        PLAIN: lambda: patched_one_by_one(plain, tokens, patches, read, n_read),
        OURS: lambda: ours("shared"),
        CLEAN: lambda: clean_pass(bridge, tokens, read),
    }
    floor = patch_flops(shape, *tokens.shape, patches, n_read) / clean_flops(shape, *tokens.shape)
    work = f"{len(heads)} heads ablated at all positions, {len(prompts)} prompts"
    return [measured(work, ways, **config.timing, clean=ways[CLEAN](), passes=floor)]


def ablation_studies(config: Config) -> list[Row]:
    """A study of a pattern task, for the embedded model's size and ours."""
    rows = []
    for shape in (SMALL, config.shape):
        dtype = getattr(torch, config.dtype)
        model, _ = build(shape, config.device, dtype, n_ctx=1024, d_vocab=config.d_vocab)
        give_tokenizer(model)
        asked = {"shots": config.n_shots, "n_queries": config.n_queries}
        rows.append(study_row(model, shape, asked, **config.timing))
    return rows


def peers(config: Config) -> list[Row]:
    """A mask's start layers, and the heads' effects, in other libraries and in ours."""
    bridge, plain = config.models()
    peer = traced(plain) if HAS_NNSIGHT else None
    prompts = config.prompts(1, config.n_masked)
    masks = masks_of(KEPT, config.shape.n_layers)
    hidden = hidden_cells(with_generated(prompts.segments, len(prompts.target_tokens[0])), masks[0])
    ways: Ways = {
        NNSIGHT: lambda: traced_masks(peer, prompts, hidden),
        LENS: lambda: lens_masks(bridge, prompts, hidden),
        OURS: lambda: in_grid(bridge, prompts, masks, "log_prob", "shared"),
    }
    clean = hugging_face_loop(plain, prompts, masks[-1:])[0]
    work = f"{len(masks)} start layers of a mask, 1 prompt of {config.n_masked} tokens"
    rows = [measured(work, _had(ways), **config.timing, clean=clean)]
    shown, patches, every = heads_at_last(config)
    few = [patches[i] for i in every]
    ways = {
        NNSIGHT: lambda: traced_patches(peer, shown, few),
        LENS: lambda: lens_patches(bridge, shown, few),
        OURS: lambda: edited(bridge, shown, patches, "shared"),
    }
    clean = clean_pass(bridge, shown.tokens, partial(first_tokens, shown))
    work = f"effects of {len(patches)} heads at the last token, {len(shown)} prompts"
    few_of = {"picked": every, "scale": len(patches) / len(few)}
    return [*rows, measured(work, _had(ways), **config.timing, clean=clean, **few_of)]


def _had(ways: Ways) -> Ways:
    """Only what is installed."""
    return {way: run for way, run in ways.items() if way != NNSIGHT or HAS_NNSIGHT}


RUNS: dict[str, Callable[[Config], list[Row]]] = {
    "head-effects": head_effects,
    "task-vectors": task_vectors,
    "head-losses": head_losses,
    "ablation-study": ablation_studies,
    "peers": peers,
}


def main(config: Config) -> None:
    """Run, write and print."""
    check_output(config.output, FILES)
    if "peers" in config.parts and not HAS_NNSIGHT:
        print("nnsight is not installed: its column stays empty (docs/speed.md says how to get it)")
    written = config.output / FILES[0]
    parts: dict[str, Any] = json.loads(written.read_text("utf-8")) if written.exists() else {}
    about = {"machine": machine(config.device), "torch": torch.__version__, "dtype": config.dtype}
    about |= config.timing
    for part in config.parts:
        parts[part] = [about | row for row in RUNS[part](config)]
        replace_file(written, [f"{json.dumps(parts, indent=1)}\n".encode()])
    ours = [row for part in RUNS if part != "peers" for row in parts.get(part, [])]
    shape = config.shape
    caption = (
        f"{MEDIANS[config.clock].format(config.n_runs)}; random Llama of {shape.n_layers} layers, "
        f"d={shape.d_model}, {config.n_tokens} tokens a prompt where nothing else is said; loops "
        f"over heads or layers at the last token ran one in {config.step}, and are scaled to all; "
        f"{config.dtype}; {machine(config.device)}."
    )
    for name, rows, loops in (
        (FILES[1], ours, (HOOKS, PLAIN)),
        (FILES[2], parts.get("peers", []), (NNSIGHT, LENS)),
    ):
        text = table(rows, loops, caption)
        replace_file(config.output / name, [text.encode()])
        print(text)


if __name__ == "__main__":
    main(tyro.cli(Config))
