"""How alike forerunner states are: those of one query behind other examples, and of others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate.checks.arguments import check_count, check_counts, check_seeds
from icl_locate.checks.contents import check_names, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked
from icl_locate.circuit.inputs import CircuitSetting, Measure
from icl_locate.circuit.neighbours import unit_rows
from icl_locate.circuit.streams import query_states
from icl_locate.errors import ResultError, TaskError
from icl_locate.metrics import Metric
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.kept import keep_tables
from icl_locate.studies.place import using
from icl_locate.studies.result import Measured
from icl_locate.tasks.task import Task

ARMS = "same query", "other queries"


@short_repr("metric", "model", "task", "ks", "layer", "seeds", "scores")
@dataclass(frozen=True)
class ForerunnerSimilarity(
    Measured,
    axes={"arm": "arms", "shots": "ks", "other_shots": "ks", "seed": "seeds"},
    form="icl_locate.ForerunnerSimilarity/1",
    tensors=("statistics", "scores"),
    labels=("arms", "ks", "layer", "seeds", "metric", "provenance"),
):
    """Mean cosines between forerunner states, by the numbers of examples before the two.

    Attributes:
        arms: "same query", the two of one query; "other queries", those of two queries.
        ks: numbers of examples.
        layer: of the states: 0 is what enters the model's first block.
        seeds: each drew other examples.
        statistics: each query's mean cosine, and 1 to count it; of "other queries" such that their
            scatter is that of the mean over pairs.
        scores: the mean, in [-1, 1].
        metric: the measure's name.
        provenance: model, task, prompts' hash, versions, options.
        custom_metric: none of the package's; not saved.
    """

    arms: tuple[str, ...]
    ks: tuple[int, ...]
    layer: int
    seeds: tuple[int, ...]
    statistics: Float[Tensor, "arm shots other_shots seed item stat"]
    scores: Float[Tensor, "arm shots other_shots seed"]
    metric: str
    provenance: Mapping[str, Any]
    custom_metric: Metric | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            arms=check_names("arms", self.arms, distinct=True),
            ks=check_counts("ks", self.ks, least=0, ascending=True, error=ResultError),
            layer=check_count("layer", self.layer, least=0, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
        )
        self._check()


@checked(TaskError, task=anything, ks=anything, layer=anything)
def forerunner_similarity(
    model: Model,
    task: Task | str | Path,
    *,
    ks: Iterable[int] = (0, 1, 2, 4, 8),
    layer: int | None = None,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = 0,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    instruction: bool = False,
    batch_size: int = 32,
    progress: bool = False,
    store: str | Path | Store | None = None,
) -> ForerunnerSimilarity:
    """How alike the forerunner states of a query are behind several numbers of examples.

    Args:
        ks: numbers of examples, each with its own draw; 0 is the query alone.
        layer: whose states, in ``0..n_layers``, where 0 is what enters block 0; ``None`` means the
            middle one.
        n_queries, seeds, choice, prepend_bos, instruction, batch_size, progress: as in
            `kernel_alignment`; the task need not have classes.

    Returns:
        Two matrices for each seed: of the same query, and of each two others, both symmetric.

    Raises:
        TaskError: given prompts; a single query, which has no others; numbers of examples or a
            layer out of range.
        PromptError, ModelError, NumericalError: as `kernel_alignment` says.

    Source: Cho et al. (ICLR 2025), section 3.3, figure 4.
    """
    n_layers = int(model.cfg.n_layers)
    chosen = n_layers // 2 if layer is None else layer
    chosen = check_count("layer", chosen, least=0, most=n_layers, error=TaskError)
    numbers = check_counts("ks", ks, least=0, ascending=True, error=TaskError)
    setting = CircuitSetting.of(
        task, Measure("forerunner_similarity"), n_shots=max(1, numbers[-1]), n_queries=n_queries,
        seeds=seeds, choice=choice, prepend_bos=prepend_bos, instruction=instruction, classes=False,
    )  # fmt: skip
    if setting.setting.n_queries < 2:
        raise TaskError("n_queries is 1: expected two or more, whose states are compared")
    with using(store, study="forerunner_similarity"):
        return _compare(model, setting, numbers, chosen, batch_size, progress)


def _compare(
    model: Model,
    setting: CircuitSetting,
    numbers: tuple[int, ...],
    chosen: int,
    batch_size: int,
    progress: bool,
) -> ForerunnerSimilarity:
    asked = setting.setting
    runs = [[_prompts(model, setting, seed, n) for n in numbers] for seed in asked.seeds]
    recipe = setting.recipe(
        model, [prompts for some in runs for prompts in some], ks=list(numbers), layer=chosen
    )
    found = []
    for some in tqdm(runs, unit="seed", desc=asked.task.name, disable=not progress):

        def measure(some: Sequence[Prompts] = some) -> dict[str, Tensor]:
            states = [query_states(model, p, "s", batch_size=batch_size)["s"][chosen] for p in some]
            return {"similarities": similarities([unit_rows("states", each) for each in states])}

        said = {"measured": "similarity", "layer": chosen, "ks": numbers}
        found.append(keep_tables(model, some, said, measure)["similarities"])
    values = torch.stack(found, dim=3)
    return ForerunnerSimilarity(
        arms=ARMS,
        ks=numbers,
        layer=chosen,
        seeds=asked.seeds,
        statistics=torch.stack([values, torch.ones_like(values)], dim=-1),
        scores=values.mean(dim=-1),
        metric="forerunner_similarity",
        provenance=recipe,
    )


def _prompts(model: Model, setting: CircuitSetting, seed: int, n_shots: int) -> Prompts:
    """The queries behind so many examples each."""
    asked = setting.setting
    shots = [setting.examples(query, seed, n_shots) for query in asked.queries]
    return asked.prompts(model, seed, instruction=setting.instruction, shots=shots)


def similarities(
    sets: Sequence[Float[Tensor, "item d"]],
) -> Float[Tensor, "arm set other_set item"]:
    """Of unit rows of the same items: the cosines of each with itself, and with all others.

    A mean over pairs ``i, j`` of what no item shares has items' influences in its row means and in
    its column means: an item's number is the sum of both, less their mean.
    """
    n_items, n_sets = len(sets[0]), len(sets)
    found = sets[0].new_zeros(2, n_sets, n_sets, n_items)
    totals = [rows.sum(dim=0) for rows in sets]
    for i, one in enumerate(sets):
        for j, other in enumerate(sets):
            same = (one * other).sum(dim=1)
            by_row = (one @ totals[j] - same) / (n_items - 1)
            by_column = (other @ totals[i] - same) / (n_items - 1)
            found[0, i, j] = same
            found[1, i, j] = by_row + by_column - by_row.mean()
    return found
