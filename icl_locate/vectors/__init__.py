"""Vectors: what the context leaves in the residual stream, taken out and put in elsewhere."""

from icl_locate.vectors.peak import Peak, locate_peak
from icl_locate.vectors.study import task_vectors
from icl_locate.vectors.task_result import TaskVectors

__all__ = ["Peak", "TaskVectors", "locate_peak", "task_vectors"]
