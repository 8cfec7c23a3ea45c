"""The control of a cut: as many edges of the same rows, drawn at random."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from icl_locate._types import Segment
from icl_locate.checks.arguments import check_choice, check_count, check_seed
from icl_locate.circuit.edges import (
    EDGES,
    CellMask,
    CircuitEdges,
    Marks,
    all_behind,
    check_compat,
    grid,
    no_cells,
)
from icl_locate.errors import MaskError
from icl_locate.interventions.edges import Positions

_LAST_LAYER = 2**31 - 1


@dataclass(frozen=True)
class RandomEdges:
    """The control of a kind of edge: as many others, drawn at random.

    Each row that the cut takes edges from loses as many, drawn from all that it has but
    self-attention and BOS. Those of the cut may be among them: the first example's "x->s" has no
    others, unless an instruction stands before it. If a row has fewer than are to be drawn, it
    loses all. What is drawn depends on the seed, the layer and the prompt's own tokens.

    With ``compat="cho2025"`` as many edges in all, of any rows, self-attention and BOS included, as
    the authors draw. A row that loses its only edge, such as BOS, attends to nothing here; in
    their code to everything, what comes after it included.

    Attributes:
        which: the kind of edge, as `CircuitEdges` says.
        seed: of the draw.
        layer: where it acts: each layer has a draw of its own.
        compat: ``None``, or "cho2025".
    """

    which: str
    seed: int
    layer: int
    compat: str | None = None

    def __post_init__(self) -> None:
        check_choice("which", self.which, EDGES, error=MaskError)
        check_compat(self.compat)
        seed = check_seed("seed", self.seed, error=MaskError)
        layer = check_count("layer", self.layer, least=0, most=_LAST_LAYER, error=MaskError)
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "layer", layer)

    def __call__(self, positions: Positions, n_rows: int) -> CellMask:
        """The edges of the last ``n_rows`` rows.

        Raises:
            MaskError: positions without tokens, parts and shots.
            PromptError: prompts without forerunner tokens.
        """
        if all_behind(positions, n_rows):
            return no_cells(positions, n_rows)
        cut = CircuitEdges(self.which, self.compat)(positions, positions.segments.shape[1])
        marks = Marks.of(positions)
        salt = self._salt(positions, marks)
        drawn = _draw_anywhere(cut, marks, salt) if self.compat else _draw_by_row(cut, marks, salt)
        return drawn[:, -n_rows:]

    def _salt(self, positions: Positions, marks: "Marks") -> Int[Tensor, "batch"]:
        """A number for each prompt, which neither padding nor its query changes.

        So prompts of the same examples with content-free queries have the same edges drawn.
        """
        if positions.tokens is None:
            raise MaskError("random edges ask for the tokens: give positions with tokens")
        text = _mix(_mix(marks.place) + positions.tokens)
        known = marks.real & (marks.segments != Segment.QUERY)
        salt = (text * known).sum(dim=1)
        for number in (self.seed, self.layer, EDGES.index(self.which)):
            salt = _mix(salt + number)
        return salt


def _draw_by_row(cut: CellMask, marks: Marks, salt: Int[Tensor, "batch"]) -> CellMask:
    """As many edges of each row as the cut takes from it."""
    prompt, row = cut.any(dim=-1).nonzero(as_tuple=True)
    keys = marks.real & (marks.segments != Segment.BOS)
    pool = keys[prompt] & (marks.place[prompt] < marks.place[prompt, row][:, None])
    of_row = _mix(salt[prompt] + marks.place[prompt, row])
    numbers = _mix(of_row[:, None] + marks.place[prompt])
    drawn = torch.zeros_like(cut)
    drawn[prompt, row] = _draw(pool, numbers, cut[prompt, row].sum(dim=-1))
    return drawn


def _draw_anywhere(cut: CellMask, marks: Marks, salt: Int[Tensor, "batch"]) -> CellMask:
    """As many edges of each prompt as the cut takes from it."""
    pool = grid(marks.real, marks.real).tril()
    of_row = _mix(salt[:, None] + marks.place)
    numbers = _mix(of_row[:, :, None] + marks.place[:, None, :])
    counts = cut.sum(dim=(1, 2))
    return _draw(pool.flatten(1), numbers.flatten(1), counts).view_as(cut)


def _draw(
    pool: Bool[Tensor, "draw cell"], numbers: Int[Tensor, "draw cell"], counts: Int[Tensor, "draw"]
) -> Bool[Tensor, "draw cell"]:
    """Of each pool the cells with the lowest numbers, as many as are asked for."""
    drawn = torch.zeros_like(pool)
    most = min(int(counts.max()) if counts.numel() else 0, pool.shape[1])
    last = torch.iinfo(torch.int64).max
    lowest = numbers.masked_fill(~pool, last).topk(most, dim=1, largest=False, sorted=True).indices
    wanted = torch.arange(most, device=pool.device) < counts[:, None]
    return drawn.scatter(1, lowest, wanted) & pool


def _mix(numbers: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Numbers that look random, the same for the same: SplitMix64 (Steele et al., 2014)."""
    mixed = numbers.long() + _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ _shifted(mixed, shift)) * _signed(factor)
    return mixed ^ _shifted(mixed, 31)


def _shifted(numbers: Int[Tensor, "*shape"], by: int) -> Int[Tensor, "*shape"]:
    """To the right, as a number without sign."""
    return (numbers >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    """The number that stands for it in 64 bits with a sign."""
    return number - (1 << 64)
