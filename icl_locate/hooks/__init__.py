"""The only place that touches a model's hooks: a mask becomes an edit of its attention."""

from icl_locate.hooks.context import attention_hooks, mask_attention
from icl_locate.hooks.probe import Route, find_route

__all__ = ["Route", "attention_hooks", "find_route", "mask_attention"]
