"""Runs of padded prompts bring the prompts' attention mask, or they are refused.

Without it padding counts as text: every number would be wrong, and nothing would say so.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from icl_locate.errors import MaskError
from icl_locate.hooks.holding import NamedHook, RunCheck
from icl_locate.hooks.positions import RowCount
from icl_locate.prompts.tokens import Prompts

_ASK = (
    "pass attention_mask=prompts.attention_mask, with a 1 behind it for each token that follows "
    "the prompts"
)


def runs_of(prompts: Prompts) -> RunCheck:
    """The check, for `hold`, that runs of some prompts bring the prompts' attention mask.

    Prompts without padding ask for none, but take no other one. Runs of other sizes pass: whoever
    counts their positions refuses them.
    """
    return partial(_check_run, prompts.attention_mask)


def _check_run(
    real: Bool[Tensor, "batch pos"],
    tokens: Tensor | None,
    given: Any,
    n_cached: int,  # noqa: ARG001
) -> None:
    n_prompts, width = real.shape
    if tokens is None or len(tokens) != n_prompts:
        return
    if given is None:
        if not real.all():
            raise MaskError(f"padded prompts were run without their attention mask: {_ASK}")
        return
    if not isinstance(given, Tensor) or given.ndim != 2:
        return  # a mask of single cells is its owner's own business
    if given.shape[1] < width and 1 < tokens.shape[1] == given.shape[1]:
        return
    if not torch.equal(given[:, :width].bool().cpu(), real.cpu()):
        raise MaskError(
            "prompts were run with another attention mask than theirs, which takes padding for "
            f"text or text for padding: {_ASK}"
        )


class PaddingCheck:
    """Looks at the lowest layer's attention scores whether padding is hidden.

    For hooks that are handed over: they see no attention mask, only what it did.
    """

    def __init__(self, prompts: Prompts) -> None:
        self._real = prompts.attention_mask
        self._rows = RowCount(prompts.attention_mask, "hooks")

    def named_hooks(self) -> list[NamedHook]:
        """The hook, where there is padding."""
        padded = not bool(self._real.all())
        return [("blocks.0.attn.hook_attn_scores", self._look)] if padded else []

    def _look(
        self,
        scores: Float[Tensor, "batch head query_pos key_pos"],
        hook: object,  # noqa: ARG002
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        n_queries, n_keys = scores.shape[-2:]
        total = self._rows.reach(n_queries, n_keys)
        n_prompts, width = self._real.shape
        if len(scores) == n_prompts and total >= width:
            behind = total - width
            real = torch.nn.functional.pad(self._real, (0, behind), value=True).to(scores.device)
            rows, keys = real[:, total - n_queries :, None], real[:, None, total - n_keys :]
            visible = scores[:, 0] > torch.finfo(scores.dtype).min / 2
            if (visible & rows & ~keys).any():
                raise MaskError(f"padded prompts were run without their attention mask: {_ASK}")
        return scores
