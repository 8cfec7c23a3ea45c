"""A method that locates the task, as one value; what it is asked for, and what it gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from icl_locate.agreement.curve import Kind
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import Check
from icl_locate.engine.choice import Engine
from icl_locate.metrics import Metric, TextScore
from icl_locate.models.bridge import Model
from icl_locate.studies.setting import Setting


@dataclass(frozen=True)
class Asked:
    """What every method is asked for, and what one of them is asked for beside it.

    Attributes:
        setting: task, queries, seeds, shots and metric; the same for all.
        metric: as the user gave it.
        engine, batch_size, token_budget, progress: as in `icl_locate.sweep`.
        named: the name or directory that the model came by; ``None`` if it came itself.
        own: the method's own options.
    """

    setting: Setting
    metric: str | Metric | TextScore | None
    engine: Engine | str
    batch_size: int
    token_budget: int | None
    progress: bool
    named: str | Path | None = None
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def running(self) -> dict[str, Any]:
        """How prompts are run, as keywords."""
        names = "engine", "batch_size", "token_budget", "progress"
        return {name: getattr(self, name) for name in names}

    @property
    def prompting(self) -> dict[str, Any]:
        """How prompts are built and scored, as keywords, but for the queries and examples."""
        setting = self.setting
        return {
            "metric": self.metric,
            "seeds": setting.seeds,
            "n_shots": setting.n_shots,
            "prepend_bos": setting.prepend_bos,
            "max_new_tokens": setting.max_new_tokens,
        }


@short_repr("layers", "n_prompts", "result")
@dataclass(frozen=True)
class Measurement:
    """What a method measured.

    Attributes:
        layers: what its curve is drawn over, on the common axis.
        statistics: as in `MethodCurve`: a cell a layer, and behind them the reference.
        result: the experiment's own, whose recipe, metric and seeds the curve has.
        n_prompts: prompts that the model answered.
        notes: what a reader must know of how it was measured.
        draws: what a seed draws, where that is not what it draws for the others.
        others: more results on the way to it, by name.
    """

    layers: tuple[int, ...]
    statistics: Float[Tensor, "cell seed item stat"]
    result: Any
    n_prompts: int
    notes: tuple[str, ...] = ()
    draws: str = "examples"
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A way to find the layer.

    To add one, write such a value and enter it in `icl_locate.agreement.registry`.

    Attributes:
        name: by which `triangulate` knows it.
        kind: how its curve tells a layer.
        lowers, share: as in `MethodCurve`.
        question: what it asks, in a sentence.
        cannot_show: what it leaves open, in a sentence.
        places: what its curve is drawn over.
        check: refuses, before anything runs, what the task cannot serve, with an error of ours.
        run: measures.
        options: its own options by name, each with what checks its value.
        by_name: whether it runs only where it is asked for by name, since it trains.
    """

    name: str
    kind: Kind
    lowers: bool
    share: float
    question: str
    cannot_show: str
    places: str
    check: Callable[[Model, Asked], None]
    run: Callable[[Model, Asked], Measurement]
    options: Mapping[str, Check] = field(default_factory=dict)
    by_name: bool = False


def answered(*statistics: Tensor | None) -> int:
    """How many prompts were answered for some tables of statistics, ``[*cells, item, stat]``."""
    return sum(int(np.prod(table.shape[:-1])) for table in statistics if table is not None)
