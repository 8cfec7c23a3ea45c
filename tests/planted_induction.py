"""A planted induction circuit: a GPT-2 of two layers whose weights are set by hand.

The residual stream holds four parts of 64 numbers: the token, the position, the token before (which
layer 0 writes) and the token to come (which layer 1 writes, and the unembedding reads). Rows of
rotations tell positions apart, so that a head can attend at any fixed distance.
"""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import icl_locate as icl

D, N_CTX = 64, 256
TOKEN, PLACE, BEFORE, NEXT = (slice(i * D, (i + 1) * D) for i in range(4))
PREVIOUS_HEAD, INDUCTION_HEAD = (0, 2), (1, 1)
FIXED_OFFSET_HEAD, POSITIONAL_HEAD = (0, 0), (0, 3)
CIRCUIT = {PREVIOUS_HEAD, INDUCTION_HEAD}
PLANTED = CIRCUIT | {FIXED_OFFSET_HEAD, POSITIONAL_HEAD}
FRIENDS = {49: 1.0, 36: 1.2, 28: 1.5}
"""The distances of prefix matching at the lengths 50, 37 and 29, and how a head shares them."""
N_WORDS = D - 3

KEYS, VALUES = ("w10", "w11", "w12", "w13"), ("w20", "w21", "w22", "w23")
TASK = icl.Task(
    name="recall",
    train=tuple(
        icl.Example(f"w{filler} {key}", value)
        for filler in range(30, 40)
        for key, value in zip(KEYS, VALUES, strict=True)
    ),
    test=tuple(
        icl.Example(f"w{filler} {key}", value)
        for filler in range(40, 50)
        for key, value in zip(KEYS, VALUES, strict=True)
    ),
    template=icl.PromptTemplate(None, "", " ", " ", stop=("\n",)),
    metric="label_accuracy",
    choice="balanced",
)
"""What each key is worth stands in the examples alone: only induction can tell."""


DEAD = (
    *(f"<0x{byte:02X}>" for byte in range(60)),
    *(f"[unused{i}]" for i in range(12)),
    *(f"<|reserved_special_token_{i}|>" for i in range(12)),
    *(f"<extra_id_{i}>" for i in range(12)),
)
"""Tokens that no text holds: 60 % of a vocabulary, if they stand behind the words."""


def build(n_dead: int = 0, n_ctx: int = N_CTX) -> GPT2LMHeadModel:
    """The model; tokens behind the words are dead: their embeddings tell none from another."""
    config = GPT2Config(
        vocab_size=D + n_dead, n_embd=4 * D, n_layer=2, n_head=4, n_positions=n_ctx, n_inner=8,
        tie_word_embeddings=False, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    frequencies = torch.rand(D // 4, generator=generator) * torch.pi
    angles = torch.arange(n_ctx)[:, None] * frequencies
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
        for name, weights in model.named_parameters():
            if "ln" not in name:
                weights.zero_()
        model.transformer.wte.weight[:D, TOKEN] = 4 * torch.eye(D)
        circle = torch.cat([angles.cos(), angles.sin()], dim=1)
        model.transformer.wpe.weight[:, PLACE] = torch.cat([circle, -circle], dim=1)
        for block in model.transformer.h:  # heads that do a little of anything
            block.attn.c_attn.weight.normal_(std=0.02)
            block.attn.c_proj.weight.normal_(std=0.02)
        for head, distances in (
            (PREVIOUS_HEAD, {1: 1.0}),
            (FIXED_OFFSET_HEAD, {49: 1.0}),
            (POSITIONAL_HEAD, FRIENDS),
        ):
            _clear(model, head)
            back = sum(share * _turn(frequencies * far) for far, share in distances.items())
            sharpness = 4 if len(distances) == 1 else 1  # several distances are to share
            _set(model, head, "q", PLACE, sharpness * back)
            _set(model, head, "k", PLACE, sharpness * torch.eye(D))
        _write(model, PREVIOUS_HEAD, BEFORE)
        _clear(model, INDUCTION_HEAD)
        _set(model, INDUCTION_HEAD, "q", TOKEN, 6 * torch.eye(D))
        _set(model, INDUCTION_HEAD, "k", BEFORE, 6 * torch.eye(D))
        _write(model, INDUCTION_HEAD, NEXT)
        model.lm_head.weight[:D, NEXT] = 4 * torch.eye(D)
    return model


def _turn(angles: torch.Tensor) -> torch.Tensor:
    """The matrix that turns a place's code (as a row) back by an angle for each frequency."""
    cos, sin = torch.diag(angles.cos()), torch.diag(angles.sin())
    turn = torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)])
    return torch.block_diag(turn, turn)


def columns(head: tuple[int, int], what: str) -> slice:
    """Where a head's queries, keys or values stand; its queries' place is its output's, too."""
    start = {"q": 0, "k": 4 * D, "v": 8 * D}[what] + head[1] * D
    return slice(start, start + D)


def _set(model, head, what, part, matrix) -> None:
    model.transformer.h[head[0]].attn.c_attn.weight[part, columns(head, what)] = matrix


def _clear(model, head) -> None:
    for what in "qkv":
        model.transformer.h[head[0]].attn.c_attn.weight[:, columns(head, what)] = 0
    model.transformer.h[head[0]].attn.c_proj.weight[columns(head, "q")] = 0


def _write(model, head, part) -> None:
    """Let a head copy the token that it attends to into a part of the residual stream."""
    _set(model, head, "v", TOKEN, torch.eye(D))
    model.transformer.h[head[0]].attn.c_proj.weight[columns(head, "q"), part] = torch.eye(D)


def tokenizer(dead: tuple[str, ...] = (), n_words: int = N_WORDS) -> PreTrainedTokenizerFast:
    """One token a word, and dead ones behind them."""
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(n_words)), *dead]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        padding_side="left",
    )  # fmt: skip


def write_task(path: Path) -> Path:
    """Write the task's examples as a JSONL task file."""
    lines = [json.dumps({"source": e.source, "target": e.target}) for e in TASK.train]
    path.write_text("\n".join(lines), "utf-8")
    return path


@cache
def boot(
    dead: tuple[str, ...] = (), n_ctx: int = N_CTX, n_words: int = N_WORDS
) -> TransformerBridge:
    """The model as a bridge, booted once a process."""
    with TemporaryDirectory() as directory:
        save(Path(directory), dead, n_ctx, n_words)
        return TransformerBridge.boot_transformers(directory, device="cpu").eval()


def save(
    directory: Path, dead: tuple[str, ...] = (), n_ctx: int = N_CTX, n_words: int = N_WORDS
) -> Path:
    """Write the model and its tokenizer."""
    build(len(dead), n_ctx).save_pretrained(directory)
    tokenizer(dead, n_words).save_pretrained(directory)
    return directory
