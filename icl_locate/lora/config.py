"""How adapters are trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from icl_locate.checks.signatures import check_fields, number, whole
from icl_locate.errors import TaskError

Loss = Literal["target", "sequence"]


@dataclass(frozen=True)
class LoraConfig:
    """The recipe; the defaults are those of Sia et al. (NeurIPS 2024, section 6).

    Attributes:
        rank, alpha, dropout: of the adapter.
        learning_rate, batch_size: of AdamW.
        max_epochs, patience, threshold: at most so many epochs; training ends once the loss on the
            development pairs has not fallen by ``threshold`` for ``patience`` epochs.
        n_train, n_dev: pairs to learn from and to stop by: the first ones of ``task.train``.
        loss: on the "target" with its end of text, or the whole "sequence", source included.
    """

    rank: int = 8
    alpha: int = 32
    dropout: float = 0.05
    learning_rate: float = 1e-4
    batch_size: int = 32
    max_epochs: int = 50
    patience: int = 5
    threshold: float = 0.01
    n_train: int = 400
    n_dev: int = 200
    loss: Loss | str = "target"

    def __post_init__(self) -> None:
        check_fields(
            self,
            TaskError,
            rank=whole(1),
            alpha=whole(1),
            dropout=number(least=0, below=1),
            threshold=number(least=0),
        )


PRESETS: Mapping[str, LoraConfig] = MappingProxyType(
    {
        "sia2024": LoraConfig(),
        "sia2024-v1": LoraConfig(rank=32, dropout=0.1, threshold=0.001),
    }
)
"""The recipes of the NeurIPS paper, and of arXiv 2403.04510v1."""
