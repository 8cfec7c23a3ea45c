"""The only place that touches a model's hooks: masks and ablations edit its attention here."""

from icl_locate.hooks.context import attention_hooks, mask_attention
from icl_locate.hooks.heads import ablate_heads, replace_inputs, scale_heads, watch_attention
from icl_locate.hooks.holding import hold
from icl_locate.hooks.probe import Route, find_route

__all__ = [
    "Route",
    "ablate_heads",
    "attention_hooks",
    "find_route",
    "hold",
    "mask_attention",
    "replace_inputs",
    "scale_heads",
    "watch_attention",
]
