"""Tasks: examples to learn from, queries to answer, a prompt layout and a metric."""

from icl_locate.tasks.loading import load_task
from icl_locate.tasks.task import Task

__all__ = ["Task", "load_task"]
