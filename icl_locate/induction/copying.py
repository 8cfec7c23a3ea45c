"""What a head writes: does it raise the logits of the token that it attends to?"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icl_locate.checks.signatures import checked
from icl_locate.engine.forward import require_numbers
from icl_locate.engine.shared.replay import BlockCall, first, replaced_blocks, with_first
from icl_locate.engine.shared.scoring import read_out
from icl_locate.errors import PromptError
from icl_locate.hooks import watch_attention
from icl_locate.induction.random_tokens import TokenIds
from icl_locate.induction.sequences import Sequences, TokenRows
from icl_locate.models.bridge import Model

_READ_AT_ONCE = 256  # rows whose logits over the whole vocabulary exist at once


@checked(PromptError)
@torch.no_grad()
def copying_scores(
    model: Model,
    *,
    length: int | None = None,
    n_sequences: int = 5,
    seed: int = 0,
    tokens: TokenIds | None = None,
    sequences: TokenRows | None = None,
    batch_size: int = 8,
) -> Float[Tensor, "layer head"]:
    """How much of what each head writes is the token that it attends to, in [0, 1].

    On distinct random tokens behind BOS: of the token that a row attends to most (BOS aside), the
    head's output through its value and output matrices goes through the model's final norm and
    unembedding; of the softmax over the vocabulary the probabilities of the sequence's tokens are
    kept, their mean is subtracted, what is below 0 dropped, and the share of the attended token
    taken. The mean over rows and sequences (Bansal et al. 2023, section 4.1).

    Args:
        length: of a sequence; ``None`` means 50, or as many as context and vocabulary hold.
        n_sequences, seed, tokens, sequences: as `head_scores` says.
        batch_size: sequences that run at once.

    Raises:
        PromptError: if the sizes are out of range, or exceed the model's context or vocabulary.
    """
    chosen = Sequences.fit(
        model, length, n_lengths=1, n_copies=1, n_sequences=n_sequences, seed=seed, tokens=tokens,
        sequences=sequences,
    )  # fmt: skip
    n = chosen.lengths[0]
    return copied_share(model, chosen.repeated(n), n, batch_size)


def copied_share(
    model: Model, tokens: Int[Tensor, "sequence pos"], length: int, batch_size: int
) -> Float[Tensor, "layer head"]:
    """The copying score on sequences whose last ``length`` tokens count."""
    n_layers = int(model.cfg.n_layers)
    totals: list[Tensor] = [torch.zeros(int(model.cfg.n_heads), dtype=torch.double)] * n_layers
    for batch in torch.split(tokens.to(model.cfg.device), batch_size):
        values, attended, output = _run(model, batch, length)
        for layer in range(n_layers):
            shares = _shares(model, layer, values[layer], attended[layer], output, batch, length)
            totals[layer] = totals[layer] + shares
    return (torch.stack(totals) / (length * len(tokens))).float()


def _run(
    model: Model, tokens: Int[Tensor, "batch pos"], length: int
) -> tuple[dict[int, Tensor], dict[int, Tensor], Any]:
    """Each layer's values, the random token that each row attends to, the last block's output."""
    values: dict[int, Tensor] = {}
    attended: dict[int, Tensor] = {}
    outputs: list[Any] = []

    def keep_values(layer: int, value: Tensor) -> None:
        by_position = value if value.shape[1] == tokens.shape[1] else value.transpose(1, 2)
        values[layer] = by_position[:, -length:].to(tokens.device)

    def keep_attended(layer: int, pattern: Tensor) -> None:
        attended[layer] = pattern[:, :, -length:, -length:].argmax(dim=-1).to(tokens.device)

    def keep_output(call: BlockCall) -> Any:
        output = call.run()
        outputs[:] = [output]
        return output

    with (
        watch_attention(model, "hook_v", keep_values),
        watch_attention(model, "hook_pattern", keep_attended),
        replaced_blocks(model, keep_output),
    ):
        model(tokens, attention_mask=torch.ones_like(tokens))
    return values, attended, outputs[0]


def _shares(
    model: Model,
    layer: int,
    values: Float[Tensor, "batch row kv_head d_head"],
    attended: Int[Tensor, "batch head row"],
    output: Any,
    tokens: Int[Tensor, "batch pos"],
    length: int,
) -> Float[Tensor, "head"]:
    """The sum over a batch's rows of the attended token's share, for each head of a layer."""
    n_heads = attended.shape[1]
    by_head = values.repeat_interleave(n_heads // values.shape[2], dim=2)  # grouped queries
    batch, pos, _, d_head = by_head.shape
    used = torch.zeros(batch, n_heads, pos, dtype=torch.long, device=tokens.device)
    used.scatter_add_(2, attended, torch.ones_like(attended))
    text, head, place = used.nonzero(as_tuple=True)
    written = by_head.new_zeros(len(text), n_heads, d_head)
    written[torch.arange(len(text)), head] = by_head[text, place, head]
    project: Any = model.blocks[layer].attn.o
    flat = written.flatten(1)[:, None]
    residual = project(flat) - project(torch.zeros_like(flat[:1]))
    residual = residual.to(first(output).device)  # where the model goes on behind its last block
    shares = torch.cat(
        [
            _share_of_attended(model, with_first(output, some), tokens[at, -length:], where)
            for some, at, where in zip(
                torch.split(residual, _READ_AT_ONCE),
                torch.split(text, _READ_AT_ONCE),
                torch.split(place, _READ_AT_ONCE),
                strict=True,
            )
        ]
    )
    weighted = (shares * used[text, head, place]).cpu().double()
    return torch.zeros(n_heads, dtype=torch.double).scatter_add_(0, head.cpu(), weighted)


def _share_of_attended(
    model: Model,
    output: Any,
    words: Int[Tensor, "row word"],
    attended: Int[Tensor, "row"],
) -> Float[Tensor, "row"]:
    logits = read_out(model, output)[:, 0].float().to(words.device)
    probabilities = logits.softmax(dim=-1).gather(1, words)
    shares = 1 / (words[:, :, None] == words[:, None, :]).sum(dim=-1)  # each token counts once
    mean = (probabilities * shares).sum(dim=1, keepdim=True) / shares.sum(dim=1, keepdim=True)
    raised = (probabilities - mean).relu()
    total = require_numbers((raised * shares).sum(dim=1))
    share = raised.gather(1, attended[:, None])[:, 0] / total
    return share.masked_fill(total == 0, 0.0)  # nothing raised: nothing copied
