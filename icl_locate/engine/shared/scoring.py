"""The "shared" engine: one pass up the layers serves every start layer of every condition.

Everything below a mask's start layer is the clean run. So the clean run goes up once; at each layer
the masked streams that start there join it with the clean residual, and travel on as one batch of
only those rows that differ from the clean run and can reach the readout.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from icl_locate._types import Segment
from icl_locate.engine.forward import keep_logits, require_numbers
from icl_locate.engine.progress import Tell, silent
from icl_locate.engine.scoring import append_targets
from icl_locate.engine.shared.replay import (
    BlockCall,
    cache_with,
    first,
    repeat,
    replaced_blocks,
    with_first,
)
from icl_locate.engine.shared.streams import CutMask, Rows, Stream, plan_streams
from icl_locate.hooks.routes import attention_bias
from icl_locate.interventions.masks import Mask
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts

_READ_AT_ONCE = 64  # rows whose logits exist at once: a large vocabulary takes more than the model


class SharedPass:
    """Runs every block for the clean run and for all streams; keeps what is to be read out.

    Attributes:
        active: for each layer, the keys and values that each stream's runs computed, run by run;
            ``None`` before the first has started. Empty unless caches are kept.
        readout: the last block's output with the readout rows of all runs, the clean one last.
    """

    def __init__(
        self,
        n_layers: int,
        streams: Sequence[Stream],
        readout: Rows,
        *,
        keeps_caches: bool = False,
        tell: Tell = silent,
    ) -> None:
        self._n_layers = n_layers
        self._tell = tell
        self._keeps_caches = keeps_caches
        self._streams = streams
        self._rows = readout
        self._hidden: list[Tensor | None] = [None] * len(streams)
        self._cuts: dict[tuple[Any, ...], tuple[Tensor, CutMask]] = {}
        self.active: list[list[tuple[Tensor, Tensor] | None]] = []
        self.readout: Any = None

    def __call__(self, call: BlockCall) -> Any:
        """Run one block."""
        mask = call.attention_mask
        output = call.run()
        clean = call.cache.layers[call.layer]
        active = [
            self._run_stream(call, i, stream, mask, clean.keys, clean.values)
            for i, stream in enumerate(self._streams)
        ]
        if self._keeps_caches:
            self.active.append(active)
        else:
            call.cache.layers[call.layer] = DynamicLayer()  # nobody will ask for it again
        self._tell((call.layer + 1) / self._n_layers)
        if call.layer == self._n_layers - 1:
            self.readout = with_first(output, self._gather(first(output)))
        return output

    def _run_stream(
        self, call: BlockCall, i: int, stream: Stream, mask: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """One block for the runs of a stream that have started; returns what they computed."""
        running = stream.n_running(call.layer)
        if not running:
            return None
        hidden = self._hidden[i]
        n_before = 0 if hidden is None else len(hidden) // len(stream.segments)
        joining = [stream.active.take(call.hidden)] * (running - n_before)
        hidden = torch.cat([*([] if hidden is None else [hidden]), *joining])
        cut, kept = self._cut(call.layer, i, stream, mask), stream.keys()
        cache = cache_with(
            call.layer,
            repeat(stream.static.take(keys, dim=2), running),
            repeat(stream.static.take(values, dim=2), running),
            room=stream.active.positions.shape[1],
        )
        output = call.rerun(
            hidden,
            cut.copies(running),
            cache,
            take_rows=lambda value: repeat(stream.active.take(value), running),
            take_keys=lambda value: repeat(kept.take(value, dim=3), running),
        )
        self._hidden[i] = first(output)
        if not self._keeps_caches:
            return None
        n_static, computed = stream.static.positions.shape[1], cache.layers[call.layer]
        return computed.keys[:, :, n_static:].clone(), computed.values[:, :, n_static:].clone()

    def _cut(self, layer: int, i: int, stream: Stream, mask: Tensor) -> CutMask:
        """The stream's cut of a mask, made once for all layers that are given the same one."""
        key = i, stream.masks.get(layer), mask.data_ptr()
        if key not in self._cuts:
            self._cuts[key] = mask, stream.cut(layer, mask)  # the mask is held: its address stays
        return self._cuts[key][1]

    def _gather(self, clean: Tensor) -> Float[Tensor, "row readout d_model"]:
        parts = [
            stream.place_of(self._rows).copies(len(stream.starts)).take(hidden)
            for stream, hidden in zip(self._streams, self._hidden, strict=True)
            if hidden is not None
        ]
        return torch.cat([*parts, self._rows.take(clean)])


def can_drop(model: Model) -> bool:
    """Whether rows may be dropped and keys reordered: not where a module masks by index.

    GPT-Neo's local window counts indices, not positions.
    """
    return all(attention_bias(block.attn) is None for block in model.blocks)


def read_out(model: Model, output: Any) -> Float[Tensor, "row pos d_vocab"]:
    """The logits of what the last block gives, by the model's own final norm and unembedding."""
    tokens = torch.zeros(first(output).shape[:2], dtype=torch.long, device=first(output).device)
    with replaced_blocks(model, lambda call: output):  # noqa: ARG005
        logits: Tensor = model(tokens)
    return logits


@torch.no_grad()
def score_many(
    model: Model,
    prompts: Prompts,
    masks: Sequence[Mask],
    *,
    drop: bool = True,
    rivals: Int[Tensor, "batch rival"] | None = None,
    tell: Tell = silent,
) -> Float[Tensor, "mask batch"] | Float[Tensor, "mask batch rival"]:
    """Each target's log-probability under each mask, by one pass up the layers.

    Args:
        drop: whether rows that reach nothing are dropped; else all rows are kept.
        rivals: tokens to score in the place of targets of one token each, instead of these.
        tell: told how much of the pass is done.

    Raises:
        NotSharedError: if the model's blocks cannot be run on other rows.
        NumericalError: if the model gives NaN.
    """
    device, n_layers = model.cfg.device, int(model.cfg.n_layers)
    forced = append_targets(prompts)
    segments, tokens = forced.segments.to(device), forced.tokens.to(device)
    readout = torch.roll(segments == Segment.GENERATED, -1, dims=1)  # the rows that predict targets
    rows = Rows.where(readout)
    streams, places = plan_streams(
        masks, segments, readout, n_layers, int(model.cfg.n_heads), drop=drop
    )
    shared = SharedPass(n_layers, streams, rows, tell=tell)
    with replaced_blocks(model, shared):
        model(
            tokens,
            attention_mask=forced.attention_mask.long().to(device),
            past_key_values=DynamicCache(),
            use_cache=True,
            **keep_logits(model, 1),
        )
    following = Rows((rows.positions + 1).clamp(max=tokens.shape[1] - 1), rows.valid)
    wanted = following.take(tokens)[..., None] if rivals is None else rivals.to(device)[:, None]
    states = first(shared.readout)
    n_runs = len(states) // len(tokens)
    log_probs = torch.cat(
        [
            _log_probs(model, with_first(shared.readout, some), words)
            for some, words in zip(
                torch.split(states, _READ_AT_ONCE),
                torch.split(repeat(wanted, n_runs), _READ_AT_ONCE),
                strict=True,
            )
        ]
    )
    sums = log_probs.masked_fill(~repeat(rows.valid, n_runs)[..., None], 0.0).sum(dim=1)
    by_run = require_numbers(sums).view(n_runs, len(tokens), -1).cpu()
    found = by_run[[run_index(streams, place) for place in places]]
    return found[..., 0] if rivals is None else found


def _log_probs(
    model: Model, output: Any, wanted: Int[Tensor, "row pos rival"]
) -> Float[Tensor, "row pos rival"]:
    logits = read_out(model, output).float()
    return logits.log_softmax(dim=-1).gather(-1, wanted)


def run_index(streams: Sequence[Stream], place: tuple[int, int] | None) -> int:
    """The number of a mask's run among all runs, stream by stream; the clean run is the last."""
    if place is None:
        return -1
    stream, run = place
    return sum(len(earlier.starts) for earlier in streams[:stream]) + run
