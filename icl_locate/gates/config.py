"""How gates are learnt."""

from dataclasses import dataclass
from typing import Literal

from icl_locate.checks.signatures import check_fields, number
from icl_locate.errors import TaskError

Objective = Literal["prune", "break"]


@dataclass(frozen=True)
class GateConfig:
    """How gates are learnt; the defaults are those of Sia et al. (v1, section 6.5).

    Attributes:
        objective: "prune" minimises the targets' loss and the open gates: what closes can go.
            "break" maximises the loss and minimises the closed gates: what closes is needed.
        penalty: lambda, the weight of the expected number of gates, against the mean loss a token.
        learning_rate: of Adam.
        batch_size: prompts of a step.
        max_epochs, patience, threshold: at most so many epochs; it ends once the best objective on
            the development prompts has not fallen by ``threshold`` for ``patience`` epochs.
        start: the gates' first parameter: open (2.4 and above).
        seed: of the order of prompts, the gates' noise, and what is added to ``start``.
    """

    objective: Objective | str = "prune"
    penalty: float = 0.01
    learning_rate: float = 1e-3
    batch_size: int = 32
    max_epochs: int = 1000
    patience: int = 10
    threshold: float = 1e-4
    start: float = 2.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            TaskError,
            penalty=number(above=0),
            threshold=number(least=0),
        )
