"""A planted inference circuit (Cho et al. 2025): a GPT-2 of eight layers that learns in context.

A text's words are of a kind, which the model knows; what a kind is called, only the examples tell.
At a ":" one head sums up the text in front of it; at a label one head copies the sum of the last
":"; at the query's ":" one head looks for labels with the sum that it has itself, and copies them
into what the unembedding reads. With the bypass no head looks at labels from there: each ":" has
collected the example before it, and the query's looks for its kind among these.

All other heads do a little of anything, and the MLPs nothing. A planted head that finds nothing
looks at the first token, of which none of them copies anything.
"""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import icl_locate as icl

N_LAYERS, N_HEADS, N_CLASSES, N_CTX = 8, 4, 2, 96
SUMMARY_LAYER, COPY_LAYER, RETRIEVE_LAYER = 1, 3, 5
COLLECT_LAYER, BYPASS_LAYER = 4, 6
SUMMARY_HEAD, FORERUNNER_HEAD = (SUMMARY_LAYER, 2), (COPY_LAYER, 1)
RETRIEVAL_HEAD = (RETRIEVE_LAYER, 0)
COLLECTING_HEAD, BYPASS_HEAD = (COLLECT_LAYER, 3), (BYPASS_LAYER, 2)
"""With the bypass, instead of the retrieval head: one collects example i at the ":" of i + 1; the
other looks through what was collected."""

KINDS = tuple(tuple(f"{kind}{i}" for i in range(12)) for kind in "abc")
WORDS = ("<pad>", "<s>", "</s>", ":", ".", *sum(KINDS, ()), *(f"l{i}" for i in range(23)))
"""Each is a token; those with an "l" are for labels, and no weight tells one from another."""

V, N_FREQUENCIES = len(WORDS), 32
SIZES = {
    "token": V, "place": 4 * N_FREQUENCIES, "kind": 4, "pair_kind": 4, "pair_label": V, "next": V,
    "ballast": 8,
}  # fmt: skip
"""The parts of the residual stream; "kind" is a text's sum, at its ":" and at its label."""
AMOUNTS = {"token": 3.0, "place": 0.4, "ballast": 4.0}
"""How large a part's entries are (6 if not named): ballast makes all tokens' norms much alike."""
D = sum(SIZES.values())
PARTS = {
    name: slice(sum(list(SIZES.values())[:i]), sum(list(SIZES.values())[: i + 1]))
    for i, name in enumerate(SIZES)
}
NORM = (
    sum(AMOUNTS[part] ** 2 * n for part, n in (("ballast", 8), ("place", 64), ("token", 1))) / D
) ** 0.5
"""What LayerNorm divides a token's stream by where no head has written."""
FREQUENCIES = torch.arange(N_FREQUENCIES) * 1.8 / N_FREQUENCIES


def task(
    labels: tuple[str, ...] = ("l0", "l1"), n_train: int = 72, n_test: int = 24, seed: int = 0
) -> icl.Task:
    """Texts of two to four words of a kind; each kind has a label of one token or of several."""
    chance = random.Random(seed)
    texts: dict[str, str] = {}
    while len(texts) < n_train + n_test:
        kind = len(texts) % len(labels)
        text = " ".join(chance.sample(KINDS[kind], chance.randint(2, 4)))
        texts.setdefault(text, labels[kind])
    examples = [icl.Example(text, label) for text, label in texts.items()]
    return icl.Task(
        name="kinds", train=tuple(examples[n_test:]), test=tuple(examples[:n_test]),
        template=icl.PromptTemplate(None, "", " : ", " . ", stop=(" .",)),
        metric="label_accuracy", choice="balanced",
    )  # fmt: skip


TASK = task()
SWAPPED = task(("l1", "l0"))
THREE_CLASSES = task(("l0", "l1", "l2"))
LONG_LABELS = task(("l0 l8 l9", "l1 l8 l9"))
"""Labels of three tokens, of which the first tells them apart (not for the bypass)."""


def build(*, bypass: bool = False, seed: int = 0) -> GPT2LMHeadModel:
    """The model; ``seed`` draws what is not planted."""
    config = GPT2Config(
        vocab_size=V, n_embd=D, n_layer=N_LAYERS, n_head=N_HEADS, n_positions=N_CTX, n_inner=4,
        tie_word_embeddings=False, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config).eval()
        for name, weights in model.named_parameters():
            if "ln" not in name:
                weights.zero_()
        model.transformer.wte.weight[:, PARTS["token"]] = AMOUNTS["token"] * torch.eye(V)
        angles = torch.arange(N_CTX)[:, None] * FREQUENCIES
        circle = torch.cat([angles.cos(), angles.sin()], dim=1)
        model.transformer.wpe.weight[:, PARTS["place"]] = AMOUNTS["place"] * torch.cat(
            [circle, -circle], dim=1
        )
        model.transformer.wpe.weight[0] = 0  # the first token is as far from all others
        model.transformer.wpe.weight[:, PARTS["ballast"]] = AMOUNTS["ballast"] * torch.tensor(
            4 * [1.0, -1.0]
        )
        for block in model.transformer.h:
            block.attn.c_attn.weight.normal_(std=0.01)
            block.attn.c_proj.weight.normal_(std=0.01)
        _plant_summary(_Head(model, SUMMARY_HEAD))
        _plant_forerunner(_Head(model, FORERUNNER_HEAD))
        if bypass:
            _plant_collecting(_Head(model, COLLECTING_HEAD))
            _plant_bypass(_Head(model, BYPASS_HEAD))
        else:
            _plant_retrieval(_Head(model, RETRIEVAL_HEAD))
        model.lm_head.weight[:, PARTS["next"]] = 2 * torch.eye(V)
    return model


def _plant_summary(head: "_Head") -> None:
    """From a ":" to the words in front of it, up to four; what they are of is its kind."""
    kinds = torch.zeros(V, 4)
    for kind, words in enumerate(KINDS):
        kinds[[WORDS.index(word) for word in words], kind] = 1
    words = [word for kind in KINDS for word in kind]
    head.prefer(None, _tokens("<s>"), 54)
    head.prefer(_tokens(":"), _tokens(*words), 30)
    head.prefer_near(40, lambda far: ((6.5 - far) / 2).clamp(0, 1))
    head.copy("token", "kind", kinds)


def _plant_forerunner(head: "_Head") -> None:
    """From anywhere to the last ":" or ".", but from a ":" to none: so only labels copy a kind."""
    head.prefer(None, _tokens("<s>"), 95)
    head.prefer(None, _tokens("."), 60)
    head.prefer(None, _tokens(":"), 65)
    head.prefer(_tokens(":"), _tokens(":"), -65)
    head.prefer_near(80, lambda far: (1 - far / 8).clamp(min=0))
    head.copy("kind", "kind", torch.eye(4))


def _plant_retrieval(head: "_Head") -> None:
    """From a ":" to the labels behind texts of its kind."""
    head.prefer(None, _tokens("<s>"), 12)
    head.prefer(None, _tokens(":"), -200)
    for i in range(len(KINDS)):
        head.prefer(_tokens(":") + _entry("kind", i), _entry("kind", i), 40, least=1)
    head.copy("token", "next", _but_first())


def _plant_collecting(head: "_Head") -> None:
    """From a ":" to the last label before it."""
    head.prefer(None, _tokens("<s>"), 60)
    head.prefer(None, _tokens(":"), -200)
    head.prefer(_tokens(":"), sum(_entry("kind", i) for i in range(len(KINDS))), 80)
    head.prefer_near(50, lambda far: (1 - far / 16).clamp(min=0))
    head.copy("kind", "pair_kind", torch.eye(4))
    head.copy("token", "pair_label", _but_first())


def _plant_bypass(head: "_Head") -> None:
    """From a ":" to the earlier ones that collected its kind; never to itself."""
    head.prefer(None, _tokens("<s>"), 12)
    for i in range(len(KINDS)):
        head.prefer(_tokens(":") + _entry("kind", i), _entry("pair_kind", i), 60, least=1)
    head.prefer_near(-50, lambda far: (1 - far / 3).clamp(min=0))
    head.copy("pair_label", "next", torch.eye(V))


def _entry(part: str, index: int) -> torch.Tensor:
    """What reads one entry of a part out of a normed stream: 1 where it is, 0 where it is not."""
    reader = torch.zeros(D)
    reader[PARTS[part]][index] = NORM / AMOUNTS.get(part, 6.0)
    return reader


def _tokens(*words: str) -> torch.Tensor:
    """What reads whether a token is one of these."""
    return sum(_entry("token", WORDS.index(word)) for word in words)


def _but_first() -> torch.Tensor:
    matrix = torch.eye(V)
    matrix[WORDS.index("<s>")] = 0
    return matrix


class _Head:
    """A head whose weights were cleared, and are set one after the other."""

    def __init__(self, model: GPT2LMHeadModel, head: tuple[int, int]) -> None:
        self.attention, self.width = model.transformer.h[head[0]].attn, D // N_HEADS
        start = head[1] * self.width
        self.q, self.k, self.v = (
            slice(start + i * D, start + i * D + self.width) for i in range(3)
        )
        for columns in (self.q, self.k, self.v):
            self.attention.c_attn.weight[:, columns] = 0
        self.attention.c_proj.weight[self.q] = 0
        self.scored, self.copied = 2 * N_FREQUENCIES, 0  # places come first

    def prefer(
        self, rows: torch.Tensor | None, keys: torch.Tensor, score: float, least: float = 0
    ) -> None:
        """Add to the scores of some keys, from some rows (``None``: from all).

        ``least`` is taken from what reads the rows: 1 lets it say no to one thing of two.
        """
        weights, column = self.attention.c_attn, self.scored
        amount = score * self.width**0.5
        weights.bias[self.q][column] = amount * (1 if rows is None else -least)
        if rows is not None:
            weights.weight[:, self.q][:, column] = amount * rows
        weights.weight[:, self.k][:, column] = keys
        self.scored += 1

    def prefer_near(self, score: float, nearness: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Add to the scores by how far behind the row a key is, as well as waves can."""
        far = torch.arange(N_CTX, dtype=torch.float)
        waves = (far[:, None] * FREQUENCIES).cos()
        heed = torch.where(far < 24, 4.0, 1.0)[:, None]
        shares = torch.linalg.lstsq(waves * heed, nearness(far)[:, None] * heed).solution[:, 0]
        amount = score * self.width**0.5 * torch.cat([shares, shares])
        places = torch.arange(D)[PARTS["place"]][: 2 * N_FREQUENCIES]
        read = torch.eye(2 * N_FREQUENCIES) * NORM / AMOUNTS["place"]
        columns = slice(0, 2 * N_FREQUENCIES)
        self.attention.c_attn.weight[:, self.q][places, columns] = read * amount
        self.attention.c_attn.weight[:, self.k][places, columns] = read

    def copy(self, source: str, target: str, matrix: torch.Tensor) -> None:
        """Write what stands in a part where the head looks into another part."""
        columns = slice(self.copied, self.copied + matrix.shape[1])
        read = NORM / AMOUNTS.get(source, 6.0) * matrix
        self.attention.c_attn.weight[:, self.v][PARTS[source], columns] = read
        out = self.attention.c_proj.weight[self.q][columns]
        out[:, PARTS[target]] = AMOUNTS.get(target, 6.0) * torch.eye(matrix.shape[1])
        self.copied = columns.stop


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        padding_side="left",
    )  # fmt: skip


@cache
def boot(*, bypass: bool = False, seed: int = 0) -> TransformerBridge:
    """The model as a bridge, booted once a process."""
    with TemporaryDirectory() as directory:
        save(Path(directory), bypass=bypass, seed=seed)
        return TransformerBridge.boot_transformers(directory, device="cpu").eval()


def save(directory: Path, *, bypass: bool = False, seed: int = 0) -> Path:
    """Write the model and its tokenizer."""
    build(bypass=bypass, seed=seed).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory
