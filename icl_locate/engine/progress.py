"""How far a run is: shares of its work, told while it goes on."""

from collections.abc import Callable

Tell = Callable[[float], object]
"""Takes the share of a run's work that is done, in [0, 1]."""


def silent(share: float) -> None:
    """Tell nobody."""


def part(tell: Tell, start: float, end: float) -> Tell:
    """What tells of a part of a run, which takes its share from ``start`` to ``end``.

    >>> told = []
    >>> part(told.append, 0.5, 1.0)(0.5)
    >>> told
    [0.75]
    """
    return lambda share: tell(start + share * (end - start))


class CellCount:
    """Tells of whole cells, each once, while batches of prompts go through all cells at once.

    Attributes:
        n_told: how many it told of.
    """

    def __init__(self, tell: Callable[[int], object], n_cells: int, n_prompts: int) -> None:
        self._tell, self._n_cells, self._n_prompts = tell, n_cells, n_prompts
        self._n_done = self.n_told = 0

    def during(self, n_prompts: int) -> Tell:
        """What tells of a batch that is under way."""
        return lambda share: self._reach(self._n_done + share * n_prompts)

    def finish(self, n_prompts: int) -> None:
        """Count a batch as done."""
        self._n_done += n_prompts
        self._reach(float(self._n_done))

    def _reach(self, n_prompts: float) -> None:
        more = int(self._n_cells * n_prompts / self._n_prompts) - self.n_told
        if more > 0:
            self.n_told += more
            self._tell(more)
