"""The only place that touches a model's hooks: interventions of every kind are put on it here."""

from icl_locate.hooks.apply import (
    ablate_heads,
    intervene,
    mask_attention,
    scale_heads,
)
from icl_locate.hooks.context import attention_hooks
from icl_locate.hooks.heads import replace_inputs, watch_attention
from icl_locate.hooks.holding import hold
from icl_locate.hooks.probe import Route, find_route
from icl_locate.hooks.registry import register_intervention
from icl_locate.hooks.site import Site

__all__ = [
    "Route",
    "Site",
    "ablate_heads",
    "attention_hooks",
    "find_route",
    "hold",
    "intervene",
    "mask_attention",
    "register_intervention",
    "replace_inputs",
    "scale_heads",
    "watch_attention",
]
