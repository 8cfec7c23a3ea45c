"""Checkpoints: one measure over the steps of a training."""

from icl_locate.checkpoints.result import OverCheckpoints
from icl_locate.checkpoints.study import over_checkpoints
from icl_locate.checkpoints.values import Values

__all__ = ["OverCheckpoints", "Values", "over_checkpoints"]
