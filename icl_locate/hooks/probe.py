"""Which route masks a model's attention: found by trying, once a model."""

import warnings
import weakref
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from enum import Enum
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks.cells import CellTracker
from icl_locate.hooks.holding import hold, own, owned
from icl_locate.hooks.routes import MaskEdit, ScoresEdit
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.masks import ContextMask, resolve
from icl_locate.models.bridge import Model
from icl_locate.models.memory import is_out_of_memory
from icl_locate.prompts.tokens import Prompts


class Route(Enum):
    """Where a model's attention can be edited."""

    SCORES = "hook_attn_scores"
    MASK = "attention_mask"


_routes: "weakref.WeakKeyDictionary[Model, Route]" = weakref.WeakKeyDictionary()

_per_head: "weakref.WeakKeyDictionary[Model, str | None]" = weakref.WeakKeyDictionary()

_PROBE = [Segment.BOS] + [Segment.EXAMPLES] * 3 + [Segment.QUERY] * 4


@contextmanager
def apply_route(model: Model, tracker: CellTracker, route: Route) -> Iterator[None]:
    """Edit the model's attention by a route until the context ends."""
    edit = ScoresEdit if route is Route.SCORES else MaskEdit
    with ExitStack() as stack:
        named = tracker.named_hooks()
        for layer in tracker.layers:
            layer_edit = edit(tracker, layer)
            named += layer_edit.named_hooks()
            if isinstance(layer_edit, MaskEdit):
                handle = model.blocks[layer].attn.register_forward_pre_hook(
                    own(layer_edit.edit_mask), with_kwargs=True
                )
                stack.callback(handle.remove)
        stack.enter_context(model.hooks(fwd_hooks=owned(named)))
        yield


def find_route(model: Model, *, per_head: bool = False) -> Route:
    """The route that masks this model's attention; tried on its first use and remembered.

    A route passes if, with a segment hidden at every layer, the later rows' logits change, no
    longer depend on that segment's tokens, and still do not depend on later tokens. Where both
    routes pass they must agree.

    Args:
        per_head: whether single heads are to be masked; some architectures take no such mask.

    Raises:
        ModelError: if no route passes: a model with layers that mix tokens by other means than
            attention (state-space hybrids), an encoder-decoder, attention that ignores its mask; or
            if the model is in training mode.
    """
    with hold(model):
        if model not in _routes:
            _check_blocks(model)
            route = _choose_route(model)
            # now, for later the model may run under other masks
            every = product(range(int(model.cfg.n_layers)), range(int(model.cfg.n_heads)))
            outcome = _try_route(model, route, heads=set(every))
            _per_head[model] = outcome if isinstance(outcome, str) else None
            _routes[model] = route
        route = _routes[model]
    if per_head and _per_head[model] is not None:
        raise ModelError(
            f"this {model.cfg.architecture} cannot be masked head by head ({_per_head[model]}): "
            "leave heads=None"
        )
    return route


def _choose_route(model: Model) -> Route:
    tried = {route: _try_route(model, route) for route in Route}
    passed = {route: found for route, found in tried.items() if isinstance(found, Tensor)}
    failed = "; ".join(
        f"{route.value}: {why}" for route, why in tried.items() if route not in passed
    )
    if len(passed) == len(Route):
        scores, mask = passed.values()
        if (scores - mask).abs().max() > 1e-2 * scores.abs().max():
            passed, failed = {}, "its two routes disagree"
    if not passed:
        raise ModelError(
            f"the attention of this {model.cfg.architecture} cannot be masked: hiding tokens had "
            f"not the effect that it must have ({failed}). Use a decoder whose layers mix tokens "
            "by attention alone"
        )
    return next(iter(passed))


def _check_blocks(model: Model) -> None:
    blocks = getattr(model, "blocks", None)
    if blocks is None or not all(hasattr(block, "attn") for block in blocks):
        raise ModelError(
            f"this {getattr(model.cfg, 'architecture', type(model).__name__)} has layers without "
            "attention, or no single stack of layers: expected a decoder-only transformer"
        )


def _try_route(
    model: Model, route: Route, heads: AbstractSet[tuple[int, int]] | None = None
) -> Tensor | str:
    """The masked logits if the route passes on this model, else why it fails."""
    tokens = _probe_tokens(model)
    segments = torch.tensor([_PROBE] * len(tokens), dtype=torch.int8, device=tokens.device)
    mask = ContextMask({Segment.EXAMPLES}, heads=heads)
    n_heads = int(model.cfg.n_heads)
    tracker = CellTracker(
        Positions(segments), resolve(mask, int(model.cfg.n_layers), n_heads), n_heads
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TransformerLens warns where an edit is discarded
        try:
            clean = _query_logits(model, tokens)
            with apply_route(model, tracker, route):
                masked = _query_logits(model, tokens)
        except MaskError:  # of a context that is open around this one: it says nothing of the model
            raise
        except (ValueError, RuntimeError, TypeError, IndexError, KeyError, AttributeError) as error:
            if is_out_of_memory(error):  # nor does this
                raise
            return f"{type(error).__name__}: {error}"[:120]
    effect = (clean[0] - masked[0]).abs().max()
    leak = (masked[0] - masked[1]).abs().max()
    lookahead = (masked[0, :-1] - masked[2, :-1]).abs().max()
    if not effect > 1e-7 * clean.abs().max():
        return "nothing changed"
    if not leak <= 0.01 * effect:
        return "hidden tokens still acted on later ones"
    if not lookahead <= 0.01 * effect:
        return "later tokens acted on earlier ones"
    return masked


def probe_prompts(model: Model) -> Prompts:
    """Two prompts of random tokens, one of them left-padded, with targets of two tokens."""
    tokens = _probe_tokens(model)[:2].cpu()
    segments = torch.tensor([_PROBE, [Segment.PAD, *_PROBE[:-1]]], dtype=torch.int8)
    return Prompts.from_tokens(tokens, segments, targets=tokens[:, 1:3].tolist())


def _probe_tokens(model: Model) -> Int[Tensor, "variant pos"]:
    """Random tokens; the same with other example tokens; the same with another last token."""
    generator = torch.Generator().manual_seed(0)
    d_vocab = int(model.cfg.d_vocab)
    base, other = torch.randint(d_vocab, (2, len(_PROBE)), generator=generator)
    other = torch.where(other == base, (other + 1) % d_vocab, other)
    examples = torch.tensor(_PROBE) == Segment.EXAMPLES
    last = torch.arange(len(_PROBE)) == len(_PROBE) - 1
    variants = [base, torch.where(examples, other, base), torch.where(last, other, base)]
    return torch.stack(variants).to(model.cfg.device)


def _query_logits(
    model: Model, tokens: Int[Tensor, "variant pos"]
) -> Float[Tensor, "variant query_pos d_vocab"]:
    logits: Tensor = model(tokens, attention_mask=torch.ones_like(tokens))
    return logits[:, [s is Segment.QUERY for s in _PROBE]].float()
