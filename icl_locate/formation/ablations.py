"""What trained heads do: their scores on a set of sequences, and what is left without some."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from icl_locate.checks.arguments import check_items, refuse
from icl_locate.checks.contents import check_pairs
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked, one_of
from icl_locate.errors import TaskError
from icl_locate.formation.clamps import Clamp, Clamps, Pattern, ValueAblation, settle_clamps
from icl_locate.formation.measures import BATCH, measure
from icl_locate.formation.model import FormationModel
from icl_locate.formation.task import SETS, answers_of

Preserved = Literal["nothing", "patterns", "values", "both"]
_PRESERVED: tuple[str, ...] = get_args(Preserved)


@checked(TaskError, clamps=anything, name=one_of(*SETS))
def induction_strengths(
    model: FormationModel, name: str = "train", n: int | None = None, *, clamps: Clamps = ()
) -> Float[Tensor, "head"]:
    """Attention of the query to the right label minus that to the wrong one, by head of layer 1.

    Args:
        model: such as ``run.model()``.
        name: of the set of sequences: "train", "relabel" or "exemplar".
        n: how many of them; ``None`` means all.
        clamps: that act while it is measured.

    Returns:
        Means over sequences, in [-1, 1].

    Raises:
        TaskError: if there is no such set, or the clamps do not fit the model.
    """
    acting = settle_clamps(clamps, model.shape.n_heads)
    return measure(model, model.task.sequences(name, n), acting).strengths


@checked(TaskError, clamps=anything, name=one_of(*SETS))
def previous_token_strengths(
    model: FormationModel, name: str = "train", n: int | None = None, *, clamps: Clamps = ()
) -> Float[Tensor, "head"]:
    """Attention to the token before, by head of layer 0: mean over the rows that have one.

    Args:
        model, name, n, clamps: as `induction_strengths` says.

    Returns:
        Means over sequences, in [0, 1].

    Raises:
        TaskError: if there is no such set, or the clamps do not fit the model.
    """
    acting = settle_clamps(clamps, model.shape.n_heads)
    return measure(model, model.task.sequences(name, n), acting).previous_token


@checked(TaskError, clamps=anything, name=one_of(*SETS))
def only_head_accuracy(
    model: FormationModel, name: str = "train", n: int | None = None, *, clamps: Clamps = ()
) -> Float[Tensor, "head"]:
    """Accuracy with one head of layer 1 alone, the values of the others at 0.

    Args:
        model, name, n, clamps: as `induction_strengths` says.

    Returns:
        Shares of right answers, in [0, 1]; guessing between the context's labels gives 0.5.

    Raises:
        TaskError: if there is no such set, or the clamps do not fit the model.
    """
    acting = settle_clamps(clamps, model.shape.n_heads)
    return measure(model, model.task.sequences(name, n), acting).only_head


@dataclass(frozen=True)
class Ablated:
    """What is left of a model: its accuracy, and its loss in nats."""

    accuracy: float
    loss: float


@checked(
    TaskError, heads=anything, clamps=anything, name=one_of(*SETS), preserve=one_of(*_PRESERVED)
)
@torch.no_grad()
def ablate(
    model: FormationModel,
    heads: Iterable[tuple[int, int]],
    *,
    preserve: Preserved | str = "nothing",
    name: str = "train",
    n: int | None = None,
    clamps: Clamps = (),
) -> Ablated:
    """Accuracy and loss with the values of some heads at 0.

    Layer 1's patterns or values can be kept as they are without the ablation: then heads of layer
    0 are missed only where the other ones go, and, with both kept, only in what they add to the
    answer itself.

    Args:
        heads: (layer, head) pairs.
        preserve: of layer 1, from a pass without the ablation: "nothing", "patterns", "values" or
            "both".
        model, name, n, clamps: as `induction_strengths` says; the clamps act in both passes.

    Raises:
        TaskError: if there is no such head or set, or the clamps do not fit the model.
    """
    acting = settle_clamps(clamps, model.shape.n_heads)
    expected = "(layer, head) pairs"
    pairs = check_pairs("heads", check_items("heads", heads, expected, error=TaskError))
    outside = [pair for pair in pairs if pair[0] > 1 or pair[1] >= model.shape.n_heads]
    if outside:
        last = model.shape.n_heads - 1
        refuse("heads", outside[0], f"layers 0 and 1, heads from 0 to {last}", TaskError)
    ablated = [
        ValueAblation(layer, frozenset(head for at, head in pairs if at == layer))
        for layer in sorted({layer for layer, _ in pairs})
    ]
    table, parts = model.embeddings(model.task.vectors), []
    for tokens in torch.split(model.task.sequences(name, n), BATCH):
        clean = model.run(tokens, table, acting)
        kept = Kept(
            clean.patterns[1] if preserve in ("patterns", "both") else None,
            clean.values[1] if preserve in ("values", "both") else None,
        )
        parts.append(model.run(tokens, table, (kept, *acting, *ablated)).logits)
    return _score(torch.cat(parts), answers_of(model.task.sequences(name, n)))


def _score(logits: Float[Tensor, "sequence label"], answers: Int[Tensor, "sequence"]) -> Ablated:
    right = (logits.argmax(dim=1) == answers).double().mean()
    return Ablated(float(right), float(F.cross_entropy(logits, answers)))


@short_repr("patterns", "values")
@dataclass(frozen=True)
class Kept(Clamp):
    """Layer 1 as another pass had it.

    Attributes:
        patterns, values: what it had; ``None`` leaves what there is.
    """

    patterns: Float[Tensor, "batch head query_pos key_pos"] | None
    values: Float[Tensor, "batch head pos d_head"] | None

    def on_pattern(self, layer: int, pattern: Pattern, right: Int[Tensor, "batch"]) -> Pattern:
        """The other pass's."""
        del right
        return pattern if layer == 0 or self.patterns is None else self.patterns

    def on_value(
        self, layer: int, value: Float[Tensor, "batch head pos d_head"]
    ) -> Float[Tensor, "batch head pos d_head"]:
        """The other pass's."""
        return value if layer == 0 or self.values is None else self.values
