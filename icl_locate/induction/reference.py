"""Measuring what heads give out on a reference corpus, in one stream over it."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icl_locate.checks.arguments import check_items, check_text, refuse
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.engine.forward import keep_logits
from icl_locate.errors import PromptError
from icl_locate.hooks import replace_inputs, watch_attention
from icl_locate.induction.random_tokens import random_tokens
from icl_locate.interventions.ablation import HeadReference
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts, check_tokenizer, check_vocabulary
from icl_locate.studies.recipe import describe_model

Corpus = Prompts | str | Sequence[str] | Int[Tensor, "text pos"]


@checked(PromptError, corpus=anything, length=whole(1))
@torch.no_grad()
def head_reference(
    model: Model,
    corpus: Corpus | None = None,
    *,
    n_texts: int = 32,
    length: int = 256,
    n_samples: int = 8,
    batch_size: int = 16,
    seed: int = 0,
) -> HeadReference:
    """Measure the mean output of every head over a corpus, for `ablate_heads`.

    The corpus passes once, batch by batch; only sums over it are kept, and the outputs on its first
    ``n_samples`` texts.

    Args:
        corpus: prompts; a text or several, tokenised as the model's tokenizer does; tokens without
            padding; or ``None`` for random tokens behind BOS.
        n_texts, length, seed: of the random tokens; ``length`` is cut to the model's context.
        n_samples: texts that "resample" may draw from.
        batch_size: texts that run at once.

    Raises:
        PromptError: if the corpus is empty, or a text exceeds the model's context.
        ModelError: if the model is in training mode.
    """
    limit = getattr(model.cfg, "n_ctx", None)
    if corpus is None:
        length = length if limit is None else min(length, int(limit))
        corpus = random_tokens(model, n_texts, length, seed=seed)
    tokens, real = _tokenise(model, corpus)
    check_vocabulary(model, tokens.tolist())
    if limit is not None and tokens.shape[1] > limit:
        raise PromptError(
            f"a text of the corpus has {tokens.shape[1]} tokens, but the model's context holds "
            f"{limit}: cut the texts"
        )
    sums = _sum_up(model, tokens, real, n_samples, batch_size)
    mean_z, mean_inputs = _means(sums.outputs, sums.counts), _means(sums.inputs, sums.counts)
    digest = hashlib.sha256(str((tokens.tolist(), real.tolist())).encode()).hexdigest()
    return HeadReference(
        mean_z=mean_z,
        mean_input_z=_outputs_of(model, mean_inputs[:, :-1]),
        samples=torch.stack([sums.samples[layer] for layer in range(len(mean_z))]),
        sample_lengths=real.sum(dim=1)[: sums.n_samples],
        provenance={
            **describe_model(model),
            "n_texts": len(tokens),
            "n_tokens": int(real.sum()),
            "corpus_sha256": digest,
        },
    )


class _Sums:
    """Sums over the texts so far, each aligned at its first token."""

    def __init__(self, width: int, n_samples: int) -> None:
        self.n_samples = n_samples
        self.outputs: dict[int, Tensor] = {}
        self.inputs: dict[int, Tensor] = {}
        self.samples: dict[int, Tensor] = {}
        self.counts = torch.zeros(width)

    def begin(self, real: Bool[Tensor, "batch pos"], start: int) -> None:
        """Make ready for a batch that begins at text ``start``."""
        padding = (~real).long().sum(dim=1)[:, None]
        places = torch.arange(real.shape[1]) + padding
        self._valid = places < real.shape[1]
        self._places = places.clamp(max=real.shape[1] - 1)
        self._start = start
        self.counts += self._valid.sum(dim=0)

    def add_outputs(self, layer: int, z: Float[Tensor, "batch pos head d_head"]) -> None:
        """Add a batch's head outputs."""
        aligned = self._add(self.outputs, layer, z)
        kept = aligned[: max(0, self.n_samples - self._start)].float().cpu()
        before = self.samples.get(layer)
        self.samples[layer] = kept if before is None else torch.cat([before, kept])

    def add_inputs(self, layer: int, inputs: Float[Tensor, "batch pos d_model"]) -> None:
        """Add a batch's attention inputs."""
        self._add(self.inputs, layer, inputs)

    def _add(self, sums: dict[int, Tensor], layer: int, values: Tensor) -> Tensor:
        rows = torch.arange(len(values))[:, None]
        aligned = values[rows, self._places.to(values.device)]
        valid = self._valid.to(values.device).view(*self._valid.shape, *[1] * (values.ndim - 2))
        aligned = aligned.masked_fill(~valid, 0.0)
        total = aligned.float().sum(dim=0).cpu().double()
        sums[layer] = sums[layer] + total if layer in sums else total
        return aligned


def _sum_up(
    model: Model,
    tokens: Int[Tensor, "text pos"],
    real: Bool[Tensor, "text pos"],
    n_samples: int,
    batch_size: int,
) -> _Sums:
    """The sums over a whole corpus, batch by batch."""
    sums, device = _Sums(tokens.shape[1], min(n_samples, len(tokens))), model.cfg.device
    for start in range(0, len(tokens), batch_size):
        chosen = slice(start, start + batch_size)
        sums.begin(real[chosen], start)
        with (
            watch_attention(model, "hook_z", sums.add_outputs),
            watch_attention(model, "hook_in", sums.add_inputs),
        ):
            mask = real[chosen].long().to(device)
            model(tokens[chosen].to(device), attention_mask=mask, **keep_logits(model, 1))
    return sums


def _means(sums: dict[int, Tensor], counts: Float[Tensor, "pos"]) -> Float[Tensor, "layer row ..."]:
    """The mean at each position, and behind them the mean over all positions."""
    total = torch.stack([sums[layer] for layer in sorted(sums)]).cpu()
    n = counts.double().view(1, -1, *[1] * (total.ndim - 2))
    overall = total.sum(dim=1, keepdim=True) / counts.sum()
    return torch.cat([total / n, overall], dim=1).float()


def _outputs_of(
    model: Model, inputs: Float[Tensor, "layer pos d_model"]
) -> Float[Tensor, "layer row head d_head"]:
    """What each layer's heads give out on such inputs."""
    found: dict[int, Tensor] = {}

    def keep(layer: int, z: Tensor) -> None:
        found[layer] = z[0].float().cpu()

    device = model.cfg.device
    tokens = torch.zeros(1, inputs.shape[1], dtype=torch.long, device=device)
    given = {layer: some[None].to(device) for layer, some in enumerate(inputs)}
    with replace_inputs(model, given), watch_attention(model, "hook_z", keep):
        model(tokens, attention_mask=torch.ones_like(tokens))
    z = torch.stack([found[layer] for layer in sorted(found)])
    return torch.cat([z, z.mean(dim=1, keepdim=True)], dim=1)


def _tokenise(
    model: Model, corpus: Corpus
) -> tuple[Int[Tensor, "text pos"], Bool[Tensor, "text pos"]]:
    """A corpus as left-padded tokens on the CPU, and which of them are real."""
    if isinstance(corpus, Prompts) and len(corpus):
        return corpus.tokens, corpus.attention_mask
    if isinstance(corpus, Tensor):
        tokens = corpus.cpu()
        if tokens.ndim != 2 or not tokens.numel() or tokens.is_floating_point():
            refuse("corpus", corpus, "whole numbers of shape (text, pos)", PromptError)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)
    corpus = [corpus] if isinstance(corpus, str) else corpus
    expected = "Prompts, a text, a list of texts, or tokens"
    corpus = [
        check_text(f"corpus[{i}]", text, error=PromptError)
        for i, text in enumerate(check_items("corpus", corpus, expected, error=PromptError))
    ]
    if not corpus:
        raise PromptError("the corpus is empty: expected at least one text")
    tokenizer = check_tokenizer(model.tokenizer)
    rows = [list[int](tokenizer(text)["input_ids"]) for text in corpus]
    if not all(rows):
        raise PromptError(f"text {rows.index([])} of the corpus is empty: expected text")
    width = max(map(len, rows))
    padded = [[int(tokenizer.pad_token_id)] * (width - len(row)) + row for row in rows]
    real = [[i >= width - len(row) for i in range(width)] for row in rows]
    return torch.tensor(padded, dtype=torch.long), torch.tensor(real, dtype=torch.bool)
