"""The edges of attention that the inference circuit runs over, as rules that an `EdgeMask` takes.

Cho et al. (ICLR 2025, section 5) disconnect them one kind after the other. Rules look at segments,
parts, shots and tokens alone, so that padding, batches and engines change nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor

from icl_locate._types import Part, Segment
from icl_locate.checks.arguments import check_choice, refuse
from icl_locate.checks.reprs import short_repr
from icl_locate.circuit.tokens import find_types
from icl_locate.errors import MaskError
from icl_locate.interventions.edges import Positions

EDGES = ("x->s", "x_q->s_q", "s->y", "y->s_q", "s->s")
"""From a text to its forerunner token, in the examples and in the query; from there to the label;
from labels to the query's forerunner token; from forerunner token to forerunner token."""
COMPAT = "cho2025"

CellMask = Bool[Tensor, "batch query_pos key_pos"]
Flags = Bool[Tensor, "batch pos"]


@dataclass(frozen=True)
class CircuitEdges:
    """One kind of edge of the inference circuit.

    Self-attention, BOS and whatever stands behind the prompt are left alone, so that no row is left
    with nothing to see. With ``s`` the token before a label, of an example or of the query (``q``):

    - "x->s": from ``s`` to the tokens of its own block before it; examples alone.
    - "x_q->s_q": the same of the query.
    - "s->y": from each token of an example's label to its ``s``.
    - "y->s_q": from the query's ``s`` to each token of every example's label.
    - "s->s": from each ``s`` to those before it: the bypass.

    With ``compat="cho2025"`` the cells of the authors' code. "x_q->s_q" and "s->s" cut
    self-attention, too; "x->s" holds the query's block; a block begins right behind the first token
    of the label before it, the first block at BOS; of a label its first token alone counts.

    Attributes:
        which: the kind.
        compat: ``None``, or "cho2025".
    """

    which: str
    compat: str | None = None

    def __post_init__(self) -> None:
        check_choice("which", self.which, EDGES, error=MaskError)
        check_compat(self.compat)

    def __call__(self, positions: Positions, n_rows: int) -> CellMask:
        """The edges of the last ``n_rows`` rows.

        Raises:
            MaskError: positions without parts and shots.
            PromptError: prompts without forerunner tokens.
        """
        if all_behind(positions, n_rows):
            return no_cells(positions, n_rows)
        marks = Marks.of(positions)
        cells = marks.theirs(self.which) if self.compat else marks.cells(self.which)
        return cells[:, -n_rows:]


def check_compat(compat: object) -> None:
    """Refuse what is neither ``None`` nor the name of the authors' code.

    Raises:
        MaskError: saying what came.
    """
    if compat not in (None, COMPAT):
        refuse("compat", compat, f"None or {COMPAT!r}", MaskError)


@short_repr("segments", "shots")
@dataclass(frozen=True)
class Marks:
    """Which tokens of the prompts are what.

    Attributes:
        real: of the prompt: no padding, and nothing behind it.
        place: of each token, counted from its prompt's first one.
        s, query_s: forerunner tokens of examples, and of the query.
        label, first: of the examples' labels: all tokens, and the first ones.
    """

    segments: Int8[Tensor, "batch pos"]
    shots: Int[Tensor, "batch pos"]
    real: Flags
    place: Int[Tensor, "batch pos"]
    s: Flags
    query_s: Flags
    label: Flags
    first: Flags

    @classmethod
    def of(cls, positions: Positions) -> "Marks":
        """Those of positions.

        Raises:
            MaskError: without parts and shots.
            PromptError: prompts without forerunner tokens.
        """
        segments, parts, shots = positions.segments, positions.parts, positions.shots
        if parts is None or shots is None:
            raise MaskError("edges of the circuit ask for parts and shots: give positions of them")
        types = find_types(segments, parts, shots)
        real = (segments != Segment.PAD) & (segments != Segment.GENERATED)
        everywhere = torch.arange(segments.shape[1], device=segments.device)

        def at(places: Int[Tensor, "batch some"]) -> Flags:
            return (places[:, :, None] == everywhere).any(dim=1)

        return cls(
            segments=segments,
            shots=shots,
            real=real,
            place=real.cumsum(dim=1) - 1,
            s=at(types.s),
            query_s=at(types.query_s[:, None]),
            label=(parts == Part.TARGET) & (shots > 0),
            first=at(types.y),
        )

    def cells(self, which: str) -> CellMask:
        """The edges of a kind."""
        query = self.segments == Segment.QUERY
        if which == "x->s":
            return _earlier(grid(self.s, self.shots > 0)) & self._same_shot
        if which == "x_q->s_q":
            return _earlier(grid(self.query_s, query))
        if which == "s->y":
            return grid(self.label, self.s) & self._same_shot
        if which == "y->s_q":
            return grid(self.query_s, self.label)
        return _earlier(grid(self.s | self.query_s, self.s))

    def theirs(self, which: str) -> CellMask:
        """The same as the authors' code has it."""
        rows = self.s | self.query_s
        behind = self.first.cumsum(dim=1)  # labels that began so far
        same_block = behind[:, :, None] == behind[:, None, :]
        block = self.real & ~self.first
        if which == "x->s":
            return _earlier(grid(rows, block)) & same_block
        if which == "x_q->s_q":
            return grid(self.query_s, block).tril() & same_block
        if which == "s->y":
            return grid(self.first, self.s) & self._same_shot
        if which == "y->s_q":
            return grid(self.query_s, self.first)
        return grid(rows, rows).tril()

    @property
    def _same_shot(self) -> CellMask:
        return self.shots[:, :, None] == self.shots[:, None, :]


def all_behind(positions: Positions, n_rows: int) -> bool:
    """Whether the last rows are all of tokens behind the prompt."""
    return bool((positions.segments[:, -n_rows:] == Segment.GENERATED).all())


def no_cells(positions: Positions, n_rows: int) -> CellMask:
    """None of the last rows' edges."""
    batch, total = positions.segments.shape
    return torch.zeros(batch, n_rows, total, dtype=torch.bool, device=positions.segments.device)


def grid(rows: Flags, keys: Flags) -> CellMask:
    """All edges from some rows to some keys."""
    return rows[:, :, None] & keys[:, None, :]


def _earlier(cells: CellMask) -> CellMask:
    """Those whose key stands before their row."""
    return cells.tril(-1)
