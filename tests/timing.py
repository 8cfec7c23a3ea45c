"""Time that a busy machine does not stretch."""

import os


def children_seconds() -> float:
    """The processor time of all child processes that have ended and been waited for."""
    times = os.times()
    return times.children_user + times.children_system
