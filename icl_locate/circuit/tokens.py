"""Where the tokens of the inference circuit stand: texts, forerunner tokens and labels.

Cho et al. (ICLR 2025, section 2): of an example's text its last token, x; the token right before
its label, s, the forerunner token; and the label, y. The query has its own x and s, and its label
where one is appended. All is read off the prompts' segments, parts and shots, never off their text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor
from torch.nn.functional import one_hot

from icl_locate._types import Part, Segment
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import PromptError
from icl_locate.prompts.tokens import Prompts

Place = Int[Tensor, "batch"]
Places = Int[Tensor, "batch shot"]


@short_repr("x", "s", "y", "query_s")
@dataclass(frozen=True)
class TokenTypes:
    """Where each type of token stands, as positions in rows of padded tokens.

    A label of several tokens has a first and a last one: attention is measured to the first, states
    are read at the last.

    Attributes:
        start: the first token of each example, delimiters included.
        x: the last token of its text.
        s: its forerunner token, the last one before the label.
        y, y_last: the first and the last token of its label.
        query_start, query_x, query_s: the same of the query.
        query_y, query_y_last: of a label that is appended to the prompt; else ``None``.
    """

    start: Places
    x: Places
    s: Places
    y: Places
    y_last: Places
    query_start: Place
    query_x: Place
    query_s: Place
    query_y: Place | None
    query_y_last: Place | None

    @property
    def n_shots(self) -> int:
        """How many examples each prompt holds."""
        return self.s.shape[1]

    def mask(self, *places: Place | Places, width: int) -> Bool[Tensor, "batch pos"]:
        """True at some of these positions, as `icl_locate.states` takes them."""
        rows = torch.cat([place.view(len(self.s), -1) for place in places], dim=1)
        found: Tensor = one_hot(rows, width).any(dim=1)
        return found


@checked(PromptError)
def token_types(prompts: Prompts) -> TokenTypes:
    """Where the tokens of the circuit stand in prompts, however they are laid out.

    Args:
        prompts: each with as many examples as the others; their tokens' parts and shots are known.

    Raises:
        PromptError: naming the prompt and what it lacks: a label directly behind its text has no
            forerunner token; parts that say nothing; another number of examples.
    """
    return find_types(prompts.segments, prompts.parts, prompts.shots)


def find_types(
    segments: Int8[Tensor, "batch pos"],
    parts: Int8[Tensor, "batch pos"],
    shots: Int[Tensor, "batch pos"],
) -> TokenTypes:
    """The same of what prompts say of their tokens; generated tokens behind them do not count."""
    n_shots = int(shots.max()) if shots.numel() else 0
    numbers = torch.arange(1, n_shots + 1, device=shots.device)
    mine = shots[:, None, :] == numbers[:, None]  # [batch, shot, pos]
    query = (segments == Segment.QUERY)[:, None, :]
    blocks = torch.cat([mine, query], dim=1)
    _require(blocks.any(dim=-1), "tokens", "as many examples in each prompt, and a query")
    source, target = ((parts == part)[:, None, :] & blocks for part in (Part.SOURCE, Part.TARGET))
    _require(source.any(dim=-1), "text whose part is SOURCE", "parts of all tokens")
    labelled = target.any(dim=-1)
    labelled[:, -1] = True  # the query need not be
    _require(labelled, "label whose part is TARGET", "labels with tokens of their own")
    answered = target[:, -1].any(dim=-1)
    if answered.any() != answered.all():
        raise PromptError(
            "some prompts have a label behind their query and others have none: expected one in "
            "each, or in none"
        )
    start, x, y, y_last = _first(blocks), _last(source), _first(target), _last(target)
    end = torch.where(target.any(dim=-1), y - 1, _last(blocks))
    _check_forerunners(end, x, parts)
    shown = bool(answered.any())
    return TokenTypes(
        start=start[:, :-1],
        x=x[:, :-1],
        s=end[:, :-1],
        y=y[:, :-1],
        y_last=y_last[:, :-1],
        query_start=start[:, -1],
        query_x=x[:, -1],
        query_s=end[:, -1],
        query_y=y[:, -1] if shown else None,
        query_y_last=y_last[:, -1] if shown else None,
    )


def answer_prompts(prompts: Prompts, labels: Sequence[Sequence[int]]) -> Prompts:
    """The prompts with labels' tokens appended to their queries, padded on the left.

    Nothing is to follow them: the context has room for a label once.

    Args:
        labels: the tokens of a label for each prompt, as they continue it.
    """
    width = max(map(len, labels))
    kept = prompts.tokens.shape[1]
    behind = torch.tensor([width - len(row) for row in labels])
    columns = torch.arange(kept + width) - behind[:, None]  # where each column comes from
    real = torch.arange(width) < torch.tensor([len(row) for row in labels])[:, None]
    tokens = torch.tensor([[*row] + [0] * (width - len(row)) for row in labels], dtype=torch.long)

    def joined(values: Tensor, new: Tensor) -> Tensor:
        rows = torch.cat([values, new.to(values.dtype)], dim=1)
        return rows.gather(1, columns % (kept + width))

    def constant(value: int, filler: int) -> Tensor:
        return torch.where(real, value, filler)

    return replace(
        prompts,
        tokens=joined(prompts.tokens, tokens),
        attention_mask=joined(prompts.attention_mask, real),
        segments=joined(prompts.segments, constant(Segment.QUERY, Segment.PAD)),
        parts=joined(prompts.parts, constant(Part.TARGET, Part.NONE)),
        shots=joined(prompts.shots, constant(0, 0)),
        words=joined(prompts.words, constant(-1, -1)),
        target_tokens=[[]] * len(prompts),  # nothing is to follow
    )


def _first(where: Bool[Tensor, "batch block pos"]) -> Int[Tensor, "batch block"]:
    return where.int().argmax(dim=-1)


def _last(where: Bool[Tensor, "batch block pos"]) -> Int[Tensor, "batch block"]:
    return where.shape[-1] - 1 - where.int().flip(-1).argmax(dim=-1)


def _require(there: Bool[Tensor, "batch block"], what: str, expected: str) -> None:
    """Refuse prompts of which an example or the query lacks something."""
    if there.all():
        return
    prompt, block = (~there).nonzero()[0].tolist()
    raise PromptError(
        f"{_called(block, there.shape[1])} of prompt {prompt} has no {what}: expected {expected}, "
        "as build_prompts gives them"
    )


def _called(block: int, n_blocks: int) -> str:
    return "the query" if block == n_blocks - 1 else f"example {block + 1}"


def _check_forerunners(
    s: Int[Tensor, "batch block"], x: Int[Tensor, "batch block"], parts: Int8[Tensor, "batch pos"]
) -> None:
    """Refuse labels right behind their text."""
    absent = (s <= x) | (parts.gather(1, s) != Part.DELIMITER)
    if absent.any():
        prompt, block = absent.nonzero()[0].tolist()
        raise PromptError(
            f"{_called(block, s.shape[1])} of prompt {prompt} has its label directly behind its "
            "text, so that there is no forerunner token between them: give the template a "
            "target_prefix that is a token of its own, such as ' Label:'"
        )
