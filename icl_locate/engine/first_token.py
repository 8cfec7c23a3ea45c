"""The next token behind each prompt, at the first token of its target."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.engine.labels import label_tokens, next_tokens
from icl_locate.engine.progress import Tell, silent
from icl_locate.engine.shared.scoring import read_next_many
from icl_locate.errors import PromptError, TaskError
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import NextToken
from icl_locate.models.bridge import Model
from icl_locate.prompts.encoding import spell
from icl_locate.prompts.tokens import Prompts


def read_first_tokens(
    readout: NextToken,
    model: Model,
    prompts: Prompts,
    intervention: Intervention | None = None,
    *,
    batch_size: int = 32,
) -> Float[Tensor, "batch"]:
    """What the readout reads of each target's first token, as it continues the prompt.

    Args:
        batch_size: prompts that run at once.

    Raises:
        PromptError: if a target has no tokens.
        NumericalError: if the model gives NaN.
    """
    wanted = torch.tensor(_first_tokens(prompts))
    found = next_tokens(model, prompts, intervention, batch_size)
    if readout.reads == "accuracy":
        return (found.argmax(dim=-1) == wanted).float()
    return found.gather(1, wanted[:, None])[:, 0].exp()


def read_first_tokens_many(
    readout: NextToken,
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    *,
    drop: bool = True,
    tell: Tell = silent,
) -> Float[Tensor, "run batch"]:
    """`read_first_tokens` under each intervention, by the shared engine.

    Args:
        tell: told how much of the work is done.

    Raises:
        NotSharedError: if the model's blocks cannot be run on other rows.
        PromptError, NumericalError: as `read_first_tokens` does.
    """
    wanted = torch.tensor(_first_tokens(prompts))
    log_probs, best = read_next_many(model, prompts, runs, wanted, drop=drop, tell=tell)
    return best.float() if readout.reads == "accuracy" else log_probs.exp()


def check_first_tokens(readout: NextToken, model: Model, prompts: Prompts) -> None:
    """Refuse answers that no first token tells apart.

    Where the possible answers are known, any two of them must begin with different tokens; of other
    targets not all may begin with the same one.

    Raises:
        TaskError: naming two answers, and the token.
        PromptError: if a target has no tokens.
    """
    starts = dict(zip(prompts.targets, _first_tokens(prompts), strict=True))
    if readout.answers and prompts.as_text:
        rows = label_tokens(model, prompts[:1], readout.answers)
        starts |= {answer: row[0][0] for answer, row in zip(readout.answers, rows, strict=True)}
    if readout.answers or (len(starts) > 1 and len(set(starts.values())) == 1):
        _refuse_same(readout, model, starts)


def _refuse_same(readout: NextToken, model: Model, starts: Mapping[str, int]) -> None:
    seen: dict[int, str] = {}
    for answer, token in starts.items():
        other = seen.setdefault(token, answer)
        if other != answer:
            raise TaskError(
                f"the answers {other!r} and {answer!r} begin with the same token, "
                f"{spell(model.tokenizer, [token], special=True)!r}: first_token_{readout.reads} "
                "cannot tell them apart; use metric='label_accuracy', 'log_prob' or 'exact_match', "
                "or answers that begin with different tokens"
            )


def _first_tokens(prompts: Prompts) -> list[int]:
    empty = [i for i, tokens in enumerate(prompts.target_tokens) if not tokens]
    if empty:
        raise PromptError(f"the target of prompt {empty[0]} has no tokens: expected text to score")
    return [tokens[0] for tokens in prompts.target_tokens]
