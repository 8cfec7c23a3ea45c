"""Sets of heads in an order."""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from icl_locate.checks.arguments import check_count
from icl_locate.checks.reprs import short_repr
from icl_locate.errors import MaskError
from icl_locate.interventions.layers import check_heads, list_pairs


@short_repr("heads", "n_layers", "n_heads")
@dataclass(frozen=True, eq=False)
class HeadSet(AbstractSet[tuple[int, int]]):
    """A set of heads, (layer, head), that knows the model's sizes.

    Attributes:
        heads: in the order in which they were chosen, the best first.
        n_layers, n_heads: the model's layers, and heads in each.
    """

    heads: tuple[tuple[int, int], ...]
    n_layers: int
    n_heads: int

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads"):
            n = check_count(name, getattr(self, name), error=MaskError)
            object.__setattr__(self, name, n)
        object.__setattr__(self, "heads", tuple(dict.fromkeys(list_pairs(self.heads))))
        check_heads(self.heads, self.n_layers, self.n_heads)

    def __contains__(self, head: object) -> bool:
        return head in self.heads

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    def __hash__(self) -> int:
        return self._hash()

    @classmethod
    def _from_iterable(cls, heads: Iterable[object]) -> frozenset[object]:  # type: ignore[override]
        return frozenset(heads)
