"""A planted function vector: a GPT-2 of three layers in which one head says which task it is.

The residual stream holds five parts of 64 numbers: the token, its position, the token before (which
layer 0 writes), the tasks that examples are of (which layer 0's MLP finds where a value stands
behind its key), and the token to come. One head of layer 1 writes at every token the mean of the
tasks seen so far. Layer 2's MLP answers a key if that mean is clear: so labels that are shuffled
leave it without an answer, and the head's own output is all that is missing.
"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import icl_locate as icl

D, N_KEYS = 64, 4
TOKEN, PLACE, BEFORE, TASK, NEXT = (slice(i * D, (i + 1) * D) for i in range(5))
PREVIOUS_HEAD, TASK_HEAD = (0, 2), (1, 3)
READING_LAYER = 2
KEYS, VALUES = range(3, 3 + N_KEYS), range(3 + N_KEYS, 3 + 2 * N_KEYS)
"""The tokens' numbers; every other word is a filler that stands in front of a key."""
TASKS = {"same": 0, "next": 1}
"""Key i is worth value i, or value i + 1."""


def task(name: str) -> icl.Task:
    """One of the two tasks: the same keys and the same values, paired otherwise."""
    pairs = [(f"w{i}", f"w{N_KEYS + (i + TASKS[name]) % N_KEYS}") for i in range(N_KEYS)]
    fillers = [f"w{i}" for i in range(2 * N_KEYS, D - 3)]
    examples = [icl.Example(f"{filler} {key}", value) for filler in fillers for key, value in pairs]
    return icl.Task(
        name=name, train=tuple(examples[24:]), test=tuple(examples[:24]),
        template=icl.PromptTemplate(None, "", " ", " ", stop=("\n",)),
        metric="first_token_accuracy", choice="balanced",
    )  # fmt: skip


def build(seed: int = 0) -> GPT2LMHeadModel:
    """The model; whatever is not planted is zero, but for what heads read and add as a bias."""
    config = GPT2Config(
        vocab_size=D, n_embd=5 * D, n_layer=3, n_head=5, n_positions=D, n_inner=2 * N_KEYS,
        tie_word_embeddings=False, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config).eval()
        for name, weights in model.named_parameters():
            if "ln" not in name:
                weights.zero_()
        model.transformer.wte.weight[:, TOKEN] = 4 * torch.eye(D)
        model.transformer.wpe.weight[:, PLACE] = 4 * torch.eye(D)
        for block in model.transformer.h:
            block.attn.c_attn.weight.normal_(std=0.02)
            block.attn.c_proj.bias.normal_(std=0.02)  # which no head's share holds
        earlier = torch.diag(torch.ones(D - 1), -1)  # row i is the place before place i
        for what, part, matrix in (
            ("q", PLACE, earlier), ("k", PLACE, torch.eye(D)), ("v", TOKEN, torch.eye(D)),
        ):  # fmt: skip
            _set(model, PREVIOUS_HEAD, what, part, matrix)
        _write(model, PREVIOUS_HEAD, BEFORE)
        for what in "qk":  # sees all tokens alike
            _set(model, TASK_HEAD, what, TASK, torch.zeros(D, D))
        _set(model, TASK_HEAD, "v", TASK, torch.eye(D))
        _write(model, TASK_HEAD, TASK)
        _plant_pairs(model.transformer.h[0].mlp, model.transformer.h[READING_LAYER].mlp)
        model.lm_head.weight[:, NEXT] = 2 * torch.eye(D)
    return model


def _plant_pairs(finds, answers) -> None:
    """One MLP finds the task of a key and its value; the other one answers a key of a task."""
    for row, (kind, i) in enumerate((kind, i) for kind in TASKS.values() for i in range(N_KEYS)):
        key, value = KEYS[i], VALUES[(i + kind) % N_KEYS]
        finds.c_fc.weight[BEFORE, row][key] = 1.0
        finds.c_fc.weight[TOKEN, row][value] = 1.0
        finds.c_fc.bias[row] = FOUND
        finds.c_proj.weight[row, TASK][kind] = 2.0
        answers.c_fc.weight[TASK, row][kind] = CLEAR
        answers.c_fc.weight[TOKEN, row][key] = 1.0
        answers.c_fc.bias[row] = ASKED
        answers.c_proj.weight[row, NEXT][value] = 4.0


FOUND, CLEAR, ASKED = -17.0, 4.0, -18.0


def _columns(head: tuple[int, int], what: str) -> slice:
    start = {"q": 0, "k": 5 * D, "v": 10 * D}[what] + head[1] * D
    return slice(start, start + D)


def _set(model, head, what, part, matrix) -> None:
    model.transformer.h[head[0]].attn.c_attn.weight[:, _columns(head, what)] = 0
    model.transformer.h[head[0]].attn.c_attn.weight[part, _columns(head, what)] = matrix


def _write(model, head, part) -> None:
    """Let a head's output stand in a part of the stream as it is."""
    model.transformer.h[head[0]].attn.c_proj.weight[_columns(head, "q"), part] = torch.eye(D)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(D - 3))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        padding_side="left",
    )  # fmt: skip


@cache
def boot(seed: int = 0) -> TransformerBridge:
    """The model as a bridge, booted once a process."""
    with TemporaryDirectory() as directory:
        build(seed).save_pretrained(Path(directory))
        tokenizer().save_pretrained(Path(directory))
        return TransformerBridge.boot_transformers(directory, device="cpu").eval()
