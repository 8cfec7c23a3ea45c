"""Replacing the outputs of heads, and watching what attention does."""

import random
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks.cells import NamedHook
from icl_locate.hooks.holding import RunCheck, hold, owned
from icl_locate.hooks.padding import no_padding, runs_of
from icl_locate.hooks.probe import probe_prompts
from icl_locate.interventions.ablation import HeadAblation, HeadReference, Method
from icl_locate.interventions.layers import as_pairs
from icl_locate.models.fingerprint import fingerprint
from icl_locate.models.loading import check_model
from icl_locate.prompts.tokens import Prompts

_editable: "weakref.WeakSet[TransformerBridge]" = weakref.WeakSet()
Watcher = Callable[[int, Tensor], object]


@checked(MaskError, heads=anything, method=anything)
@contextmanager
def ablate_heads(
    model: TransformerBridge,
    heads: HeadAblation | Collection[Sequence[int]],
    method: Method | str = "zero",
    *,
    reference: HeadReference | None = None,
    prompts: Prompts | None = None,
    seed: int = 0,
) -> Iterator[TransformerBridge]:
    """Ablate heads of a model inside a ``with``, through generation with or without a cache.

    Contexts nest with each other and with `mask_attention`. The model is restored at the end, after
    an exception too.

    Args:
        heads: (layer, head) pairs, or a `HeadAblation`, which brings its own method.
        method: "zero", "mean_z", "mean_input" or "resample", as `HeadAblation` says.
        reference: what `head_reference` gave; every method but "zero" asks for one.
        prompts: the prompts that the model is run on, with their attention mask; they say where
            padding ends. ``None`` means that there is no padding.
        seed: of the draws of "resample".

    Raises:
        MaskError: heads that the model does not have; a method without its reference; a run on
            other prompts, or without their attention mask.
        ModelError: if replacing heads' outputs has no effect on this model.
    """
    ablation = heads
    if not isinstance(ablation, HeadAblation):
        ablation = HeadAblation(as_pairs(ablation), method, reference, seed)
    reference = ablation.reference
    if reference is not None and reference.provenance.get("fingerprint") != fingerprint(model):
        raise MaskError(
            f"the reference was measured on another model ({reference.provenance.get('model')}, or "
            "other weights or another dtype of it): make it with this one, by head_reference"
        )
    n_heads = int(model.cfg.n_heads)
    layers = ablation.by_layer(int(model.cfg.n_layers), n_heads)
    rows = _RowTracker(prompts)
    hooks: list[NamedHook] = [("embed.hook_in", rows.see)]
    for layer, chosen in layers.items():
        hooks.append((f"blocks.{layer}.attn.hook_z", _replacement(ablation, layer, chosen, rows)))
    check = no_padding if prompts is None else runs_of(prompts)
    begins = rows.beginning(None if prompts is None and ablation.method == "zero" else check)
    with hold(model):
        check_outputs(model)
        with hold(model, begins), model.hooks(fwd_hooks=owned(hooks)):
            yield model


@contextmanager
def watch_attention(
    model: TransformerBridge, point: str, watcher: Watcher, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Show ``watcher(layer, value)`` what passes a point of each layer's attention.

    Args:
        point: "hook_pattern" [batch head query_pos key_pos], "hook_z" [batch pos head d_head],
            "hook_v" [batch pos kv_head d_head] or "hook_in" [batch pos d_model].
        layers: which; ``None`` means all.

    Raises:
        ModelError: at the end, if nothing passed there while the model ran inside.
    """
    check_model(model)
    shown: set[int] = set()

    def show(layer: int) -> Callable[..., Tensor]:
        def watch(value: Tensor, hook: object) -> Tensor:  # noqa: ARG001
            shown.add(layer)
            watcher(layer, value)
            return value

        return watch

    chosen = range(int(model.cfg.n_layers)) if layers is None else layers
    hooks = [(f"blocks.{layer}.attn.{point}", show(layer)) for layer in chosen]
    with hold(model), model.hooks(fwd_hooks=owned(hooks)):
        yield
    unseen = sorted(set(chosen) - shown)
    if unseen:
        raise ModelError(
            f"nothing passed {point} of layer {unseen[0]} of this {model.cfg.architecture}: its "
            "heads cannot be watched"
        )


@contextmanager
def replace_inputs(
    model: TransformerBridge, inputs: Mapping[int, Float[Tensor, "batch pos d_model"]]
) -> Iterator[None]:
    """Give each layer's attention other inputs than its residual stream, inside a ``with``."""
    check_model(model)

    def give(value: Tensor) -> Callable[..., Tensor]:
        return lambda old, hook: value.to(old.dtype)  # noqa: ARG005

    hooks = [(f"blocks.{layer}.attn.hook_in", give(value)) for layer, value in inputs.items()]
    with hold(model), model.hooks(fwd_hooks=owned(hooks)):
        yield


@contextmanager
def scale_heads(
    model: TransformerBridge, gates: Float[Tensor, "layer head"]
) -> Iterator[TransformerBridge]:
    """Multiply each head's output by its gate, inside a ``with``; gradients reach the gates.

    Raises:
        ModelError: if replacing heads' outputs has no effect on this model.
    """
    check_model(model)

    def scale(layer: int) -> Callable[..., Tensor]:
        return lambda z, hook: z * gates[layer].to(z.device, z.dtype)[:, None]  # noqa: ARG005

    hooks = [(f"blocks.{layer}.attn.hook_z", scale(layer)) for layer in range(len(gates))]
    with hold(model):
        check_outputs(model)
        with model.hooks(fwd_hooks=owned(hooks)):
            yield model


def check_outputs(model: TransformerBridge) -> None:
    """Refuse a model on which edits of heads' outputs do nothing; tried once a model.

    Raises:
        ModelError: if every head at zero leaves the logits of random tokens as they are.
    """
    if model in _editable:
        return
    tokens = probe_prompts(model).tokens[:1].to(model.cfg.device)
    real = torch.ones_like(tokens)

    def silence(z: Tensor, hook: object) -> Tensor:  # noqa: ARG001
        return torch.zeros_like(z)

    hooks = [(f"blocks.{layer}.attn.hook_z", silence) for layer in range(int(model.cfg.n_layers))]
    with torch.no_grad():
        clean = model(tokens, attention_mask=real)
        with model.hooks(fwd_hooks=hooks):
            silent = model(tokens, attention_mask=real)
    if torch.equal(clean, silent):
        raise ModelError(
            f"the outputs of this {model.cfg.architecture}'s heads cannot be replaced: with every "
            "head at zero nothing changed"
        )
    _editable.add(model)


class _RowTracker:
    """Where the rows of the call that is under way stand in their texts."""

    def __init__(self, prompts: Prompts | None) -> None:
        self.names: Sequence[str] = () if prompts is None else prompts.texts
        self._shape = None if prompts is None else prompts.tokens.shape
        self._padding = torch.zeros(1, 1, dtype=torch.long)
        if prompts is not None:
            self._padding = (~prompts.attention_mask).long().cumprod(dim=1).sum(dim=1)[:, None]
        self._span = (0, 0)
        self._n_cached = 0

    def beginning(self, check: RunCheck | None) -> RunCheck:
        """A check, for `hold`, that also notes where each run begins: behind what its cache holds.

        The number of tokens alone does not tell: a prompt of one looks like a step.
        """

        def note(tokens: Tensor | None, given: Any, n_cached: int) -> None:
            self._n_cached = n_cached
            if check is not None:
                check(tokens, given, n_cached)

        return note

    def see(self, tokens: Int[Tensor, "batch pos"], hook: object) -> Int[Tensor, "batch pos"]:  # noqa: ARG002
        """Count the tokens that go in: a whole text, or those that a cache lacks."""
        batch, n = tokens.shape
        end = self._n_cached + n
        self._span = (self._n_cached, end)
        if self._shape is not None and (batch != self._shape[0] or end < self._shape[1]):
            raise MaskError(
                f"the model ran on {batch} x {end} tokens under an ablation made for prompts "
                f"of {self._shape[0]} x {self._shape[1]}: run it on prompts.tokens, whole"
            )
        return tokens

    def positions(self) -> Int[Tensor, "#batch pos"]:
        """Each row's place in its text, from 0; padding's is 0."""
        return (torch.arange(*self._span) - self._padding).clamp(min=0)


def _replacement(
    ablation: HeadAblation, layer: int, heads: list[int], rows: _RowTracker
) -> Callable[..., Tensor]:
    """The hook that replaces the outputs of one layer's heads."""
    values = _stand_in(ablation, layer, heads, rows)

    def replace(z: Tensor, hook: object) -> Tensor:  # noqa: ARG001
        new = z.clone()
        new[:, :, heads] = values(z).to(z.dtype)
        return new

    return replace


def _stand_in(
    ablation: HeadAblation, layer: int, heads: list[int], rows: _RowTracker
) -> Callable[[Tensor], Float[Tensor, "#batch #pos #head #d_head"]]:
    """What stands in for the heads' outputs, given the layer's outputs."""
    reference = ablation.reference
    if ablation.method == "zero" or reference is None:
        return lambda z: z.new_zeros(1, 1, 1, 1)
    if ablation.method == "resample":
        samples = reference.samples[layer][:, :, heads]
        lengths = reference.sample_lengths

        def resample(z: Tensor) -> Tensor:
            drawn = _draw(ablation.seed, rows.names, len(z), len(lengths))
            places = rows.positions() % lengths[drawn][:, None]
            return samples[drawn[:, None], places].to(z.device)

        return resample
    means = reference.mean_z if ablation.method == "mean_z" else reference.mean_input_z
    table = means[layer][:, heads]
    return lambda z: table[rows.positions().clamp(max=len(table) - 1)].to(z.device)


def _draw(seed: int, names: Sequence[str], n_rows: int, n_samples: int) -> Int[Tensor, "row"]:
    """Which sample each row is given, by its text, or its number where there is none."""
    keys = [name or str(i) for i, name in enumerate(names)] or list(map(str, range(n_rows)))
    return torch.tensor([random.Random(f"{seed}/{key}").randrange(n_samples) for key in keys])
