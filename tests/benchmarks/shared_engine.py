"""Benchmark of the shared engine: ``python tests/benchmarks/shared_engine.py``.

Three ways to the same numbers, in turn in one run on the same inputs: the loop of hooked runs, a
loop of plain Hugging Face eager attention with the mask (as scripts for the papers do it), and the
shared engine. Outputs are compared, ratios are of medians. The floor counts floating-point
operations: one clean pass, plus from each start layer on only those rows that can differ from it
and can reach the readout. Writes a table and its numbers into ``docs/``.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache

import icl_locate as icl
from icl_locate import Segment
from icl_locate.embedded.tokenizer import vocabulary
from icl_locate.engine.shared import score_many
from icl_locate.engine.shared_decoding import generate_many
from icl_locate.engine.streams import plan_streams
from icl_locate.models import embedded_directory

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Config:
    """Compare the shared engine with two loops."""

    n_layers: int = 12
    """Layers of the random Llama."""
    d_model: int = 768
    """Its width."""
    n_tokens: int = 320
    """Tokens a prompt."""
    hidden: float = 0.8
    """Share of them that are examples."""
    n_prompts: int = 1
    """Prompts a batch."""
    n_runs: int = 5
    """Alternating runs, of which medians are taken."""
    generation: bool = False
    """Whether to compare generation too, which takes minutes a run."""
    device: str = "cpu"
    """Where to run."""
    dtype: Annotated[str, tyro.conf.arg(metavar="float32|bfloat16")] = "float32"
    """Of the weights."""


def build(config: Config) -> tuple[TransformerBridge, LlamaForCausalLM]:
    """The same random Llama as a bridge and as a plain Hugging Face model."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=config.d_model,
        intermediate_size=4 * config.d_model,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.d_model // 64,
        num_key_value_heads=config.d_model // 64,
        max_position_embeddings=4 * config.n_tokens,
        attn_implementation="eager",
    )
    dtype = getattr(torch, config.dtype)
    plain = LlamaForCausalLM(shape).eval().to(config.device, dtype)
    copy = LlamaForCausalLM(shape).eval().to(config.device, dtype)
    copy.load_state_dict(plain.state_dict())
    bridge = TransformerBridge.boot_transformers(
        "random-llama",
        hf_model=copy,
        tokenizer=AutoTokenizer.from_pretrained(embedded_directory()),
        device=config.device,
    )
    return bridge.eval(), plain


def random_prompts(config: Config, *, instruction: bool = True) -> icl.Prompts:
    """Prompts of random tokens: BOS, instruction, examples, query; targets of eight tokens."""
    generator = torch.Generator().manual_seed(1)
    n_examples = round(config.hidden * config.n_tokens)
    n_query = (config.n_tokens - n_examples) // 2
    n_instruction = config.n_tokens - n_examples - n_query - 1
    if not instruction:
        n_instruction, n_query = 0, n_query + n_instruction
    row = [Segment.BOS] + [Segment.INSTRUCTIONS] * n_instruction
    row += [Segment.EXAMPLES] * n_examples + [Segment.QUERY] * n_query
    segments = torch.tensor([row] * config.n_prompts, dtype=torch.int8)
    shape = config.n_prompts, config.n_tokens
    tokens = torch.randint(3, len(vocabulary()), shape, generator=generator)
    targets = torch.randint(3, len(vocabulary()), (config.n_prompts, 8), generator=generator)
    texts = [""] * config.n_prompts
    return icl.Prompts(
        tokens=tokens,
        attention_mask=segments != Segment.PAD,
        segments=segments,
        parts=torch.zeros_like(segments),
        shots=torch.zeros(shape, dtype=torch.long),
        target_tokens=targets.tolist(),
        texts=texts,
        sources=texts,
        targets=texts,
        template=icl.PromptTemplate(),
    )


def _giver(mask: Tensor, span: Sequence[int]) -> Callable[..., Any]:
    """A forward pre-hook that gives attention the rows of a mask that are being run."""

    def give(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"attention_mask": mask[:, :, span[0] : span[1], : span[1]]}

    return give


@torch.no_grad()
def hugging_face_loop(
    plain: LlamaForCausalLM, prompts: icl.Prompts, masks: Sequence[icl.ContextMask]
) -> Tensor:
    """Log-probabilities by one eager run a mask, each layer given its own 4-D mask."""
    target = torch.tensor(prompts.target_tokens)
    tokens = torch.cat([prompts.tokens, target], dim=1).to(plain.device)
    total, width = tokens.shape[1], target.shape[1]
    segments = torch.nn.functional.pad(prompts.segments, (0, width), value=int(Segment.GENERATED))
    lowest = torch.finfo(plain.dtype).min
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    found: list[Tensor] = []
    for mask in masks:
        hidden = torch.isin(segments, torch.tensor([int(s) for s in mask.hide]))[:, None, None, :]
        gone = hidden & (~torch.eye(total, dtype=torch.bool) if mask.keep_self else True)
        base = torch.zeros(len(tokens), 1, total, total, dtype=plain.dtype)
        clean = base.masked_fill(~causal, lowest).to(plain.device)
        masked = base.masked_fill(~causal | gone, lowest).to(plain.device)
        handles = [
            layer.self_attn.register_forward_pre_hook(
                _giver(masked if i >= mask.layers.start else clean, (0, total)), with_kwargs=True
            )
            for i, layer in enumerate(plain.model.layers)
        ]
        logits = plain(tokens, use_cache=False, logits_to_keep=width + 1).logits[:, :-1]
        for handle in handles:
            handle.remove()
        log_probs = logits.float().log_softmax(-1)
        found.append(log_probs.gather(-1, tokens[:, -width:, None])[..., 0].sum(-1).cpu())
    return torch.stack(found)


@torch.no_grad()
def hugging_face_answers(
    plain: LlamaForCausalLM, prompts: icl.Prompts, masks: Sequence[icl.ContextMask], n_new: int
) -> Tensor:
    """Greedy tokens by one eager, cached run a mask, each layer given its own 4-D mask."""
    lowest, n_prompt = torch.finfo(plain.dtype).min, prompts.tokens.shape[1]
    total = n_prompt + n_new
    segments = torch.nn.functional.pad(prompts.segments, (0, n_new), value=int(Segment.GENERATED))
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    found: list[Tensor] = []
    for mask in masks:
        hidden = torch.isin(segments, torch.tensor([int(s) for s in mask.hide]))[:, None, None, :]
        base = torch.zeros(len(segments), 1, total, total, dtype=plain.dtype)
        clean = base.masked_fill(~causal, lowest).to(plain.device)
        masked = base.masked_fill(~causal | hidden, lowest).to(plain.device)
        span = [0, n_prompt]
        handles = [
            layer.self_attn.register_forward_pre_hook(
                _giver(masked if i >= mask.layers.start else clean, span), with_kwargs=True
            )
            for i, layer in enumerate(plain.model.layers)
        ]
        cache, step, chosen = DynamicCache(), prompts.tokens.to(plain.device), []
        for _ in range(n_new):
            output = plain(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            step = output.logits[:, -1].argmax(-1, keepdim=True)
            chosen.append(step.cpu())
            span[:] = [span[1], span[1] + 1]
        for handle in handles:
            handle.remove()
        found.append(torch.cat(chosen, dim=1))
    return torch.stack(found)


def compare_generation(config: Config, n_new: int = 32, n_prompts: int = 8) -> dict[str, Any]:
    """The row for generation: every start layer of one condition, answers compared."""
    bridge, plain = build(config)
    prompts = random_prompts(replace(config, n_prompts=n_prompts))
    bridge.tokenizer.eos_token = bridge.tokenizer.pad_token  # random answers must not end
    bridge.original_model.generation_config.eos_token_id = None
    masks = [
        icl.PAPER_CONDITIONS[2].mask(icl.from_layer(start)) for start in range(config.n_layers + 1)
    ]
    decode = bridge.tokenizer.batch_decode
    ways: dict[str, Callable[[], list[list[str]]]] = {
        "hooks loop": lambda: [icl.generate(bridge, prompts, mask, n_new, ()) for mask in masks],
        "Hugging Face loop": lambda: [
            [text.strip() for text in decode(tokens, skip_special_tokens=True)]
            for tokens in hugging_face_answers(plain, prompts, masks, n_new)
        ],
        "shared": lambda: generate_many(bridge, prompts, masks, n_new, ()),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    outcomes: dict[str, list[list[str]]] = {}
    for _ in range(config.n_runs):
        for way, run in ways.items():
            taken, outcomes[way] = timed(run)
            seconds[way].append(taken)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    answers = [sum(outcomes[way], []) for way in ways]  # noqa: RUF017
    return {
        "work": f"{n_new} new tokens, {len(masks)} start layers, 1 condition, {n_prompts} prompts",
        "seconds": medians,
        "over hooks loop": medians["hooks loop"] / medians["shared"],
        "over Hugging Face loop": medians["Hugging Face loop"] / medians["shared"],
        "equal answers": sum(len(set(some)) == 1 for some in zip(*answers, strict=True)),
        "answers": len(answers[0]),
        "runs": config.n_runs,
    }


def layer_flops(config: Config, n_rows: int, n_keys: int) -> float:
    """Multiply-adds of one layer: projections, gated MLP, attention over the keys."""
    d = config.d_model
    return n_rows * (4 * d * d + 3 * d * 4 * d + 2 * n_keys * d)


def floor_flops(config: Config, prompts: icl.Prompts, masks: Sequence[icl.ContextMask]) -> float:
    """One clean pass, and for each run only the rows that differ and reach the readout."""
    width = len(prompts.target_tokens[0])
    segments = torch.nn.functional.pad(prompts.segments, (0, width), value=int(Segment.GENERATED))
    readout = torch.roll(segments == Segment.GENERATED, -1, dims=1)
    streams, _ = plan_streams(
        masks, segments, readout, config.n_layers, config.d_model // 64, drop=True
    )
    total = segments.shape[1]
    flops = config.n_layers * layer_flops(config, total, total)
    for stream in streams:
        n_rows, n_keys = stream.active.positions.shape[1], stream.keys().positions.shape[1]
        n_layers = sum(config.n_layers - start for start in stream.starts)
        flops += n_layers * layer_flops(config, n_rows, n_keys)
    return flops * config.n_prompts


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a run, and its outcome."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    outcome = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, outcome


def compare(config: Config, conditions: Sequence[icl.Condition], name: str) -> dict[str, Any]:
    """One row of the table: medians, ratios, the floor, and the largest difference."""
    bridge, plain = build(config)
    grids = [
        (
            random_prompts(config, instruction=instruction),
            [
                condition.mask(icl.from_layer(start))
                for condition in conditions
                if condition.instruction == instruction
                for start in range(config.n_layers + 1)
            ],
        )
        for instruction in sorted({condition.instruction for condition in conditions})
    ]

    def over_grids(run: Callable[[icl.Prompts, Sequence[icl.ContextMask]], Tensor]) -> Tensor:
        return torch.cat([run(prompts, masks) for prompts, masks in grids])

    def hooks_loop(prompts: icl.Prompts, masks: Sequence[icl.ContextMask]) -> Tensor:
        return torch.stack([icl.score_targets(bridge, prompts, mask) for mask in masks])

    ways: dict[str, Callable[[], Tensor]] = {
        "hooks loop": lambda: over_grids(hooks_loop),
        "Hugging Face loop": lambda: over_grids(lambda p, m: hugging_face_loop(plain, p, m)),
        "shared": lambda: over_grids(lambda p, m: score_many(bridge, p, m)),
        "one clean pass": lambda: icl.score_targets(bridge, grids[0][0]),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    outcomes: dict[str, Tensor] = {}
    timed(ways["shared"])
    for _ in range(config.n_runs):
        for way, run in ways.items():
            taken, outcomes[way] = timed(run)
            seconds[way].append(taken)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    total = config.n_tokens + len(grids[0][0].target_tokens[0])
    clean = config.n_prompts * config.n_layers * layer_flops(config, total, total)
    passes = sum(floor_flops(config, prompts, masks) for prompts, masks in grids) / clean
    return {
        "work": name,
        "seconds": medians,
        "over hooks loop": medians["hooks loop"] / medians["shared"],
        "over Hugging Face loop": medians["Hugging Face loop"] / medians["shared"],
        "floor in clean passes": passes,
        "floor reached": medians["one clean pass"] * passes / medians["shared"],
        "largest difference": max(
            (outcomes[way] - outcomes["hooks loop"]).abs().max().item()
            for way in ("Hugging Face loop", "shared")
        ),
        "runs": config.n_runs,
    }


def table(rows: Sequence[dict[str, Any]], config: Config) -> str:
    """The rows in Markdown."""
    lines = [
        "| work | hooks loop | Hugging Face loop | shared | over hooks | over Hugging Face "
        "| floor reached | largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = row["seconds"]
        if "answers" in row:
            lines.append(
                f"| {row['work']} | {seconds['hooks loop']:.2f} s "
                f"| {seconds['Hugging Face loop']:.2f} s | {seconds['shared']:.2f} s "
                f"| {row['over hooks loop']:.1f}x | {row['over Hugging Face loop']:.1f}x "
                f"| | {row['equal answers']} of {row['answers']} answers equal |"
            )
            continue
        lines.append(
            f"| {row['work']} | {seconds['hooks loop']:.2f} s "
            f"| {seconds['Hugging Face loop']:.2f} s | {seconds['shared']:.2f} s "
            f"| {row['over hooks loop']:.1f}x | {row['over Hugging Face loop']:.1f}x "
            f"| {100 * row['floor reached']:.0f} % | {row['largest difference']:.0e} |"
        )
    where = (
        torch.cuda.get_device_name()
        if config.device == "cuda"
        else (f"{platform.machine()}, {torch.get_num_threads()} threads")
    )
    lines += [
        "",
        f"Medians of {config.n_runs} alternating runs; random Llama of {config.n_layers} layers, "
        f"d={config.d_model}, {config.n_tokens} tokens of which {100 * config.hidden:.0f} % are "
        f"examples, {config.n_prompts} prompt(s), {config.dtype}; {where}.",
    ]
    return "\n".join(lines)


def main(config: Config) -> None:
    """Run, write and print."""
    starts = f"log-probabilities, {config.n_layers + 1} start layers"
    rows = [
        compare(config, icl.PAPER_CONDITIONS[2:3], f"{starts}, 1 condition"),
        compare(config, icl.PAPER_CONDITIONS, f"{starts}, the six paper conditions"),
    ]
    if config.generation:
        rows.append(compare_generation(config))
    text = table(rows, config)
    (DOCS / "benchmark.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (DOCS / "benchmark_table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config))
