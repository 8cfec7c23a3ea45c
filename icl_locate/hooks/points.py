"""The points of a layer at which values are read and edited; tried once a model."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.errors import IclLocateError, ModelError, NumericalError
from icl_locate.hooks.heads import split_heads
from icl_locate.hooks.holding import NamedHook
from icl_locate.hooks.probe import probe_prompts
from icl_locate.interventions.edits import POINTS, Point
from icl_locate.models.bridge import Model
from icl_locate.models.memory import is_out_of_memory

HOOKS: dict[Point, str] = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "z": "blocks.{}.attn.hook_z",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "resid_post": "blocks.{}.hook_resid_post",
}
"""What TransformerLens calls them."""

_CALLED: dict[Point, str] = {
    "resid_pre": "the residual stream before the blocks",
    "z": "the outputs of the heads",
    "attn_out": "what attention adds to the residual stream",
    "mlp_out": "what the MLPs add to the residual stream",
    "resid_post": "the residual stream behind the blocks",
}
_widths: "weakref.WeakKeyDictionary[Model, dict[Point, int]]" = weakref.WeakKeyDictionary()


def check_point(model: Model, point: Point) -> int:
    """The width of what passes a point: d_head at "z", else d_model; tried until edits act there.

    On a few random tokens, with other values at the point from some row on, in every layer: the
    logits change, but not those of the rows before; with its own values there they stay.

    Raises:
        ModelError: if edits have not the effect that they must have; the message says what.
    """
    widths = _widths.setdefault(model, {})
    if point not in widths:
        found = _try_points(model)
        widths |= {name: width for name, width in found.items() if isinstance(width, int)}
        if point not in widths:
            raise ModelError(
                f"{_CALLED[point]} cannot be replaced in this {model.cfg.architecture}: "
                f"{found[point]}"
            )
    return widths[point]


def _try_points(model: Model) -> dict[Point, int | str]:
    """The width of each point at which edits act, or why they do not."""
    known = {point: _name_all(model, point) for point in POINTS}
    there = [point for point in POINTS if all(name in model.hook_dict for name in known[point])]
    found: dict[Point, int | str] = {
        point: f"TransformerLens offers no {known[point][0]} in each of its layers"
        for point in POINTS
    }
    tokens = probe_prompts(model).tokens[:1].to(model.cfg.device).expand(len(POINTS), -1)
    try:
        clean = _logits(model, tokens, [])
        if clean.isnan().any():
            raise NumericalError(
                "the model gave NaN for random tokens: check its weights, or load it in float32"
            )
        seen: dict[Point, list[tuple[int, ...]]] = {point: [] for point in there}
        kept = _logits(model, tokens, _hooks(known, there, partial(_keep, model, seen)))
        other = _logits(model, tokens, _hooks(known, there, _disturb))
    except IclLocateError:  # it says nothing of the model
        raise
    except (ValueError, RuntimeError, TypeError, IndexError, KeyError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        return dict.fromkeys(POINTS, f"{type(error).__name__}: {error}"[:120])
    for point in there:
        row = POINTS.index(point)
        rank = 4 if point == "z" else 3
        shapes = seen[point]
        fits = all(len(s) == rank and s[:2] == tuple(tokens.shape) for s in shapes)
        if len(shapes) != len(known[point]):
            found[point] = f"values passed in {len(shapes)} of its {len(known[point])} layers"
        elif not fits or len(set(shapes)) > 1:
            found[point] = f"values of the shapes {sorted(set(shapes))} passed there"
        else:
            why_not = _judge(clean[row], kept[row], other[row])
            found[point] = why_not or shapes[0][-1]
    return found


def _name_all(model: Model, point: Point) -> list[str]:
    return [HOOKS[point].format(layer) for layer in range(int(model.cfg.n_layers))]


def _hooks(
    known: dict[Point, list[str]], points: list[Point], act: Callable[..., Tensor]
) -> list[NamedHook]:
    return [(name, partial(act, point)) for point in points for name in known[point]]


@torch.no_grad()
def _logits(model: Model, tokens: Tensor, hooks: list[NamedHook]) -> Float[Tensor, "row pos vocab"]:
    with model.hooks(fwd_hooks=hooks):
        logits: Tensor = model(tokens, attention_mask=torch.ones_like(tokens))
    return logits.float()


def _keep(
    model: Model,
    seen: dict[Point, list[tuple[int, ...]]],
    point: Point,
    value: Any,
    hook: object,  # noqa: ARG001
) -> Any:
    """Give a point's own values back, and note their shape."""
    if not isinstance(value, Tensor):
        return value
    whole = value.ndim > 3 and value[0, 0].numel() % int(model.cfg.n_heads) == 0
    shown = split_heads(model, value) if point == "z" and whole else value
    seen[point].append(tuple(shown.shape))
    return value.clone()


def _disturb(point: Point, value: Any, hook: object) -> Any:  # noqa: ARG001
    """Other values, in the point's own row of the batch, from the middle of the text on."""
    if not isinstance(value, Tensor) or value.ndim < 3 or len(value) != len(POINTS):
        return value
    row, middle = POINTS.index(point), value.shape[1] // 2
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(value[row, middle:].shape, generator=generator)
    edited = value.clone()
    edited[row, middle:] += (1 + value[row].abs().max()) * noise.to(value)
    return edited


def _judge(clean: Tensor, kept: Tensor, other: Tensor) -> str:
    """Why edits have not the effect that they must have; empty if they have."""
    middle, largest = len(clean) // 2, clean.abs().max()
    effect = (other[middle:] - clean[middle:]).abs().max()
    if not effect > 1e-7 * largest:
        return "with other values there nothing changed"
    if not (kept - clean).abs().max() <= 0.01 * effect:
        return "with its own values put back there the logits changed"
    if not (other[:middle] - clean[:middle]).abs().max() <= 0.01 * effect:
        return "edits of later rows acted on earlier ones"
    return ""
