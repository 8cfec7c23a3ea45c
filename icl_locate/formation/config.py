"""How a model is trained: everything that tells one run from another."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from icl_locate.checks.arguments import refuse
from icl_locate.checks.signatures import anything, check_fields, whole
from icl_locate.errors import TaskError
from icl_locate.formation.clamps import Clamp, clamp_names, settle_clamps
from icl_locate.formation.model import FormationShape
from icl_locate.formation.task import FormationTask
from icl_locate.studies.recipe import describe_value

MOST = 10**9
"""Where counts of sequences end: beyond it a run would never return."""


@dataclass(frozen=True)
class FormationConfig:
    """What `train` was asked for, its sizes checked and its clamps as the model takes them."""

    clamps: Any
    n_sequences: int
    seed: int
    task: FormationTask
    shape: FormationShape
    learning_rate: float
    batch_size: int
    head: int
    previous_head: int
    evaluate_every: int
    n_evaluated: int | None
    settled: tuple[Clamp, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_fields(
            self,
            TaskError,
            clamps=anything,
            n_sequences=whole(1, MOST),
            evaluate_every=whole(1, MOST),
            settled=anything,
        )
        if self.n_evaluated == 0:
            refuse("n_evaluated", 0, "a whole number of at least 1, or None", TaskError)
        for name in ("head", "previous_head"):
            if getattr(self, name) >= self.shape.n_heads:
                expected = f"a head from 0 to {self.shape.n_heads - 1}"
                refuse(name, getattr(self, name), expected, TaskError)
        settled = settle_clamps(self.clamps, self.shape.n_heads, self.head, self.previous_head)
        object.__setattr__(self, "settled", settled)

    @property
    def clamp_names(self) -> tuple[str, ...]:
        """What its clamps are called."""
        return clamp_names(self.clamps)

    @cached_property
    def points(self) -> tuple[int, ...]:
        """The steps before which the model is measured; the last one is the end."""
        last = -(-self.n_sequences // self.batch_size)
        every = range(0, self.n_sequences, self.evaluate_every)
        return tuple(sorted({*(-(-n // self.batch_size) for n in every), last}))

    def describe(self) -> dict[str, Any]:
        """The run, as JSON holds it: equal runs are described alike, others apart."""
        told = {
            name: getattr(self, name)
            for name in (
                "n_sequences", "seed", "learning_rate", "batch_size", "head", "previous_head",
                "evaluate_every", "n_evaluated",
            )
        }  # fmt: skip
        acting: Mapping[str, Any] = {"acting": describe_value(self.settled)}
        return {"task": asdict(self.task), "shape": asdict(self.shape), **told, **acting}
