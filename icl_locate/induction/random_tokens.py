"""Sequences of random tokens: the inputs on which heads are measured."""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.checks.arguments import check_count, check_items, refuse
from icl_locate.checks.signatures import checked
from icl_locate.errors import PromptError
from icl_locate.models.bridge import Model
from icl_locate.models.loading import check_model
from icl_locate.prompts.tokens import Prompts, build_prompts, check_tokenizer
from icl_locate.tasks.task import Task

RARE = 0.04
"""The share of the vocabulary's most and least frequent tokens that is left out, each."""

_OWN = (Segment.EXAMPLES, Segment.QUERY)

TokenIds = Int[Tensor, "token"] | Sequence[int]

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_NO_TEXT = re.compile(
    r"""<\|.*\|>                                        # <|im_start|>, <|fim_prefix|>
    | [<\[].*(unused|reserved|placeholder|dummy|special|control|extra).*[>\]]
    | [<\[]/?(s|pad|mask|cls|sep|bos|eos|unk)(_?\d+)?[>\]]
    | madeupword\d+""",
    re.VERBOSE | re.IGNORECASE,
)


def usable_tokens(model: Model) -> Int[Tensor, "token"]:
    """The tokens that random sequences are made of: those that an ordinary text holds.

    Left out are the first and last 4 % of all ids, since vocabularies are ordered by frequency,
    roughly (Crosbie and Shutova 2024 leave out the most and least frequent 4 %); and what no text
    of the training data need ever have held: special, added and reserved tokens, single bytes that
    stand in for unknown characters (``<0x0A>``), ids that the tokenizer does not know. In a
    byte-level vocabulary single bytes are characters, and stay.

    Raises:
        PromptError: if the model has no tokenizer to tell them apart.
    """
    if model.tokenizer is None:
        raise PromptError(
            "the model has no tokenizer, which would say what tokens ordinary text holds: choose "
            "tokens yourself, such as induction.task_tokens(model, task)"
        )
    tokenizer = check_tokenizer(model.tokenizer)
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    size = int(model.cfg.d_vocab)
    left_out = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    kept = [
        token
        for token in range(round(size * RARE), size - round(size * RARE))
        if token in names and token not in left_out and _may_stand_in_text(names[token])
    ]
    return torch.tensor(kept, dtype=torch.long)


def _may_stand_in_text(name: str) -> bool:
    return not (_BYTE.fullmatch(name) or _NO_TEXT.fullmatch(name.lstrip("▁Ġ")))


@checked(PromptError)
def task_tokens(model: Model, task: Task) -> Int[Tensor, "token"]:
    """The distinct tokens of a task's own texts: its sources, its targets, and what announces them.

    For ``tokens=`` of the functions that score heads: what a model does on tokens that it knows.

    Raises:
        PromptError: if the task has no examples or queries.
    """
    prompts = _plain_prompts(model, task) if task.prompts is None else task.prompts
    own = torch.isin(prompts.segments, torch.tensor(_OWN, dtype=torch.int8))
    shown = set(prompts.tokens[own].tolist())
    shown |= {token for target in prompts.target_tokens for token in target}
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    return torch.tensor(sorted(shown - special), dtype=torch.long)


def _plain_prompts(model: Model, task: Task) -> Prompts:
    """Every source of a task in a prompt of its own."""
    everything = list(dict.fromkeys([*task.train, *task.test]))
    if not everything:
        raise PromptError(f"the task {task.name!r} has no examples and no queries")
    template = task.template.without_instruction()
    return build_prompts(model, everything, n_shots=0, template=template, prepend_bos=False)


def check_tokens(model: Model, tokens: TokenIds) -> Int[Tensor, "token"]:
    """Tokens that a user chose, each once, in order.

    Raises:
        PromptError: if one is no token of the model, or fewer than two differ.
    """
    found = set(_check_ids(model, "tokens", tokens))
    if len(found) < 2:
        refuse("tokens", tokens, "two different token ids or more", PromptError)
    return torch.tensor(sorted(found), dtype=torch.long)


def check_sequences(
    model: Model, sequences: Int[Tensor, "sequence pos"] | Sequence[Sequence[int]]
) -> Int[Tensor, "sequence pos"]:
    """Sequences of tokens that a user chose, cut to the shortest.

    Raises:
        PromptError: if there are none, one has fewer than two tokens, or holds what is no token of
            the model.
    """
    expected = "sequences of token ids, each of two or more"
    rows = [
        _check_ids(model, f"sequences[{i}]", row)
        for i, row in enumerate(check_items("sequences", sequences, expected, error=PromptError))
    ]
    if not rows or min(map(len, rows)) < 2:
        refuse("sequences", sequences, expected, PromptError)
    shortest = min(map(len, rows))
    return torch.tensor([row[:shortest] for row in rows], dtype=torch.long)


def _check_ids(model: Model, name: str, tokens: TokenIds) -> list[int]:
    most = int(model.cfg.d_vocab) - 1
    items = check_items(name, tokens, "a list of token ids", error=PromptError)
    return [
        check_count(f"{name}[{i}]", token, least=0, most=most, error=PromptError)
        for i, token in enumerate(items)
    ]


def opening_tokens(model: Model) -> list[int]:
    """The special tokens that the model's tokenizer puts before a text: BOS, or nothing.

    That it names a BOS does not mean that it prepends it: TransformerLens names one for all.
    """
    if model.tokenizer is None:
        return []
    encoding = check_tokenizer(model.tokenizer)("a", return_special_tokens_mask=True)
    ids, special = list(encoding["input_ids"]), list(encoding["special_tokens_mask"])
    return ids[: next((i for i, flag in enumerate(special) if not flag), 0)]


def random_tokens(
    model: Model,
    n_texts: int,
    length: int,
    *,
    seed: int = 0,
    pool: Int[Tensor, "token"] | None = None,
) -> Int[Tensor, "text pos"]:
    """Random tokens, none twice while there are others, behind BOS if the tokenizer prepends it.

    Each text goes through random orders of the tokens, one after the other.

    Args:
        length: tokens of a text, BOS included.
        seed: each text has its own generator, made of it and the text's number.
        pool: what to draw from; ``None`` means `usable_tokens`.

    Raises:
        PromptError: if the sizes are not 1 or more, or there is no token to draw.
    """
    check_model(model)
    if n_texts < 1 or length < 1:
        raise PromptError(f"{n_texts} texts of {length} tokens: expected 1 or more of both")
    opening, usable = opening_tokens(model), usable_tokens(model) if pool is None else pool
    if not len(usable):
        raise PromptError(
            "every token of the vocabulary is special, added, reserved or a single byte: choose "
            "tokens yourself"
        )
    n_random = max(length - len(opening), 0)
    rows = []
    for text in range(n_texts):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + text)
        n_orders = -(-n_random // len(usable)) or 1
        orders = [torch.randperm(len(usable), generator=generator) for _ in range(n_orders)]
        rows.append(usable[torch.cat(orders)[:n_random]])
    return torch.cat(
        [torch.tensor([opening] * n_texts, dtype=torch.long), torch.stack(rows)], dim=1
    )
