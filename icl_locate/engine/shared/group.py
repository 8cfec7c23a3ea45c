"""Runs that go through a layer together, and which rows of them do."""

from dataclasses import dataclass

from icl_locate.engine.shared.acts import Hiding
from icl_locate.engine.shared.rows import Rows

Sight = tuple[Rows, Rows, Rows, Hiding]
"""Static, feeding and active rows, and what is hidden: what says which keys each row sees."""


@dataclass(frozen=True)
class Group:
    """Runs that go through a layer together.

    Attributes:
        runs: their numbers.
        static: the rows that are taken from the clean run.
        feeding: those of which only keys and values are computed: no layer above needs more.
        active: those that are computed.
        hiding: the cells that all of them hide.
    """

    runs: tuple[int, ...]
    static: Rows
    feeding: Rows
    active: Rows
    hiding: Hiding

    def keys_of(self, rows: Rows) -> Rows:
        """The keys that active rows see, in their order; feeding rows see but themselves."""
        if rows is self.feeding:
            return rows
        return self.static.beside(self.feeding, self.active)

    @property
    def sight(self) -> Sight:
        """What it shares with groups whose rows see the same keys."""
        return self.static, self.feeding, self.active, self.hiding

    @property
    def n_keys(self) -> int:
        """The keys that each run has here."""
        return self.static.width + self.feeding.width + self.active.width

    @property
    def lies_beside(self) -> bool:
        """Whether runs are few rows over many keys that all of them share."""
        return not self.feeding.width and self.static.width >= 2 * self.active.width

    def portions(self, at_once: int) -> list[range]:
        """Its runs in portions, in each of which at most so many go through a block together.

        Runs that lie beside each other compute no more keys than those that they share.
        """
        if self.lies_beside:
            at_once = min(at_once, max(1, self.static.width // max(1, self.active.width)))
        n = len(self.runs)
        return [range(i, min(i + at_once, n)) for i in range(0, n, at_once)]

    @property
    def n_held(self) -> int:
        """The keys that each run holds, beside those that it shares with all."""
        return self.active.width if self.lies_beside else self.n_keys
