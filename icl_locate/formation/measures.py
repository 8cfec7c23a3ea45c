"""What a model does: its losses, what its heads attend to, and what each of them does alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from icl_locate.checks.reprs import short_repr
from icl_locate.formation.clamps import Clamp
from icl_locate.formation.model import FormationModel, Pass
from icl_locate.formation.task import LABEL_COLUMNS, N_TOKENS, answers_of, right_columns
from icl_locate.studies.attention import paid_to

MEASURES = ("label_to_item", "query_to_labels", "label_in_context", "right_of_two")
"""Progress before the jump, after Reddy (2024): attention of the context's labels to their items in
layer 0, and of the query to the labels in layer 1, each of the head that pays most; the share of
answers that are one of the context's labels; accuracy of choosing among these two."""
BATCH = 1024
"""Sequences of a pass without gradients."""


@short_repr("loss", "accuracy")
@dataclass
class Measured:
    """What a model does on some sequences: means over them, or sums while they are added up."""

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    strengths: Float[Tensor, "head"]
    previous_token: Float[Tensor, "head"]
    only_head: Float[Tensor, "head"]
    label_to_item: Float[Tensor, "head"]
    query_to_labels: Float[Tensor, "head"]
    label_in_context: Float[Tensor, ""]
    right_of_two: Float[Tensor, ""]

    @property
    def progress(self) -> Float[Tensor, "measure"]:
        """The ``MEASURES``."""
        return torch.stack([getattr(self, name).max() for name in MEASURES])


@torch.no_grad()
def measure(
    model: FormationModel, tokens: Int[Tensor, "sequence pos"], clamps: Sequence[Clamp]
) -> Measured:
    """Everything that a point of a run says of one set of sequences."""
    names = [field.name for field in fields(Measured)]
    table, totals = model.embeddings(model.task.vectors), [torch.zeros(())] * len(names)
    for batch in torch.split(tokens, BATCH):
        found = _sums(model, model.run(batch, table, clamps), batch, clamps)
        totals = [total + found[name] for total, name in zip(totals, names, strict=True)]
    return Measured(*(total / len(tokens) for total in totals))


def _sums(
    model: FormationModel, ran: Pass, tokens: Int[Tensor, "batch pos"], clamps: Sequence[Clamp]
) -> Mapping[str, Tensor]:
    """The measures of a pass, summed over its sequences."""
    right = right_columns(tokens)
    answers, labels = answers_of(tokens), tokens[:, LABEL_COLUMNS]
    query = torch.zeros_like(labels)
    to_right = paid_to(ran.patterns[1], query[:, :1], right[:, None])
    to_wrong = paid_to(ran.patterns[1], query[:, :1], sum(LABEL_COLUMNS) - right[:, None])
    rows, columns = torch.arange(1, N_TOKENS), torch.tensor(LABEL_COLUMNS)
    alone = torch.stack([*_only_heads(model, ran, tokens, clamps)], dim=1)
    of_two = labels.gather(1, ran.logits.gather(1, labels).argmax(dim=1, keepdim=True))[:, 0]
    chosen = ran.logits.argmax(dim=1)
    found = {
        "loss": F.cross_entropy(ran.logits, answers, reduction="none"),
        "accuracy": chosen == answers,
        "strengths": (to_right - to_wrong)[..., 0],
        "previous_token": paid_to(ran.patterns[0], rows, rows - 1).mean(dim=-1),
        "only_head": alone == answers[:, None],
        "label_to_item": paid_to(ran.patterns[0], columns, columns - 1).mean(dim=-1),
        "query_to_labels": (to_right + to_wrong)[..., 0],
        "label_in_context": (chosen[:, None] == labels).any(dim=1),
        "right_of_two": of_two == answers,
    }
    return {name: values.double().sum(dim=0).float() for name, values in found.items()}


def _only_heads(
    model: FormationModel, ran: Pass, tokens: Int[Tensor, "batch pos"], clamps: Sequence[Clamp]
) -> Iterator[Int[Tensor, "batch"]]:
    """The answers with each head of layer 1 alone: heads only add up, so one pass tells of all."""
    for head in range(model.shape.n_heads):
        alone = torch.zeros_like(ran.mixed)
        alone[:, head] = ran.mixed[:, head]
        logits = model.answers(ran.stream, alone)
        for clamp in clamps:
            logits = clamp.on_logits(logits, ran.scores, tokens)
        yield logits.argmax(dim=1)
