"""Watching what passes the points of a layer, and giving attention other inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor

from icl_locate.errors import ModelError
from icl_locate.hooks.holding import hold, owned
from icl_locate.models.bridge import Model
from icl_locate.models.loading import check_model

Watcher = Callable[[int, Tensor], object]


@contextmanager
def watch_attention(
    model: Model, point: str, watcher: Watcher, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Show ``watcher(layer, value)`` what passes a point of each layer's attention.

    Args:
        point: "hook_pattern" [batch head query_pos key_pos], "hook_z" [batch pos head d_head],
            "hook_v" [batch pos kv_head d_head] or "hook_in" [batch pos d_model].
        layers: which; ``None`` means all.

    Raises:
        ModelError: at the end, if nothing passed there while the model ran inside.
    """
    with watch(model, f"blocks.{{}}.attn.{point}", watcher, layers):
        yield


@contextmanager
def watch(
    model: Model, name: str, watcher: Watcher, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Show ``watcher(layer, value)`` what passes a point of each layer.

    Args:
        name: the point's, with {} for the layer.
        layers: which; ``None`` means all.

    Raises:
        ModelError: at the end, if nothing passed there while the model ran inside.
    """
    check_model(model)
    shown: set[int] = set()

    def show(layer: int) -> Callable[..., Tensor]:
        def look(value: Tensor, hook: object) -> Tensor:  # noqa: ARG001
            shown.add(layer)
            watcher(layer, split_heads(model, value) if name.endswith("hook_z") else value)
            return value

        return look

    chosen = range(int(model.cfg.n_layers)) if layers is None else layers
    hooks = [(name.format(layer), show(layer)) for layer in chosen]
    with hold(model), model.hooks(fwd_hooks=owned(hooks)):
        yield
    unseen = sorted(set(chosen) - shown)
    if unseen:
        point = name.rpartition(".")[2]
        raise ModelError(
            f"nothing passed {point} of layer {unseen[0]} of this {model.cfg.architecture}: it "
            "cannot be watched"
        )


def split_heads(model: Model, z: Tensor) -> Float[Tensor, "batch pos head d_head"]:
    """Heads' outputs, split by the model's heads.

    TransformerLens splits those of latent attention by the width of its queries, which is not the
    width of its values.
    """
    return z.reshape(*z.shape[:2], int(model.cfg.n_heads), -1)


@contextmanager
def replace_inputs(
    model: Model, inputs: Mapping[int, Float[Tensor, "batch pos d_model"]]
) -> Iterator[None]:
    """Give each layer's attention other inputs than its residual stream, inside a ``with``."""
    check_model(model)

    def give(value: Tensor) -> Callable[..., Tensor]:
        return lambda old, hook: value.to(old.dtype)  # noqa: ARG005

    hooks = [(f"blocks.{layer}.attn.hook_in", give(value)) for layer, value in inputs.items()]
    with hold(model), model.hooks(fwd_hooks=owned(hooks)):
        yield
