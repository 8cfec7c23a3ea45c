"""Tasks: examples to learn from, queries to answer, a prompt layout and a metric."""

from icl_locate.tasks.classification import classification_task
from icl_locate.tasks.code import human_eval_task
from icl_locate.tasks.loading import check_task, load_task
from icl_locate.tasks.patterns import PATTERN_TASKS, pattern_task
from icl_locate.tasks.task import Task
from icl_locate.tasks.translation import flores_task, parallel_task

__all__ = [
    "PATTERN_TASKS",
    "Task",
    "check_task",
    "classification_task",
    "flores_task",
    "human_eval_task",
    "load_task",
    "parallel_task",
    "pattern_task",
]
