"""In-context vectors: from the states of sources to those of targets (Liu et al. 2023)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_items, check_number, check_type, refuse
from icl_locate.checks.contents import check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.engine.choice import Engine
from icl_locate.errors import MaskError, ResultError, TaskError
from icl_locate.interventions.base import Composition
from icl_locate.interventions.states import StateEdit
from icl_locate.metrics import Metric, TextScore
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.template import Example, PromptTemplate
from icl_locate.prompts.tokens import build_prompts
from icl_locate.records.saved import Saved
from icl_locate.records.store import Store
from icl_locate.studies.place import Executor
from icl_locate.studies.recipe import describe_model, prompts_digest
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task
from icl_locate.vectors.controls import shuffle_labels
from icl_locate.vectors.injections import Context, check_against, score_vectors
from icl_locate.vectors.pairs import choose_pairs, last_states, principal_direction
from icl_locate.vectors.runs import Runs
from icl_locate.vectors.scores import StrengthScores

_BARE = PromptTemplate(None, "", "", "", stop=())


@short_repr("model", "task", "vectors")
@dataclass(frozen=True)
class InContextVectors(
    Saved,
    form="icl_locate.InContextVectors/1",
    tensors=("means", "directions"),
    labels=("explained", "provenance"),
):
    """A direction at every layer, from the states of sources to those of their targets.

    Attributes:
        means: the mean difference.
        directions: the first principal direction of the differences, a unit vector over all layers
            together, whose sign makes its product with the mean positive.
        explained: the share of the differences' variance that lies along that direction.
        provenance: model, versions, the pairs' hash and number.
    """

    means: Float[Tensor, "layer d_model"]
    directions: Float[Tensor, "layer d_model"]
    explained: float
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        share = check_number("explained", self.explained, least=0, most=1, error=ResultError)
        settle(self, provenance=check_recipe(self.provenance), explained=share)
        check_table("means", self.means, (None, None))
        check_table("directions", self.directions, tuple(self.means.shape))

    @property
    def vectors(self) -> Float[Tensor, "layer d_model"]:
        """What states are steered towards: the means plus the directions."""
        return self.means + self.directions

    @checked(MaskError)
    def edit(self, weight: float = 0.1, *, generated: bool = True) -> Composition:
        """The intervention that steers what every layer's MLP adds, at every position.

        A value x becomes ``|x| normalise(x/|x| + weight (1 + max(0, -cos(x, v))) v/|v|)`` with the
        layer's vector v. It is refused on a model of other weights.

        Args:
            weight: how far; below 0 away from the targets, 0 not at all.
            generated: whether tokens that follow the prompts are steered, too.
        """
        return _steerings([weight], generated, self.vectors, self.provenance)[0]

    @checked(ResultError, others=anything)
    def average(self, others: Sequence["InContextVectors"]) -> "InContextVectors":
        """The mean of these and others, of the same weights: what they have in common.

        Raises:
            ResultError: if there are none, or some are of other weights.
        """
        expected = "a list of InContextVectors, at least one"
        listed = check_items("others", others, expected, error=ResultError)
        for one in listed:
            check_type("others", one, InContextVectors, expected=expected, error=ResultError)
        if not listed:
            refuse("others", others, expected, ResultError)
        every = (self, *listed)
        if len({str(one.provenance.get("fingerprint")) for one in every}) > 1:
            raise ResultError("others are of other weights: average vectors of one model")
        return InContextVectors(
            means=torch.stack([one.means for one in every]).mean(dim=0),
            directions=torch.stack([one.directions for one in every]).mean(dim=0),
            explained=sum(one.explained for one in every) / len(every),
            provenance={
                **self.provenance, "average_of": [dict(one.provenance) for one in every],
            },
        )  # fmt: skip

    @checked(TaskError, task=anything, strengths=anything, metric=anything, against=anything)
    def score(
        self,
        model: Model,
        task: Task | str | Path,
        strengths: float | Iterable[float] = (0.05, 0.1, 0.2),
        *,
        context: Context | str = "none",
        against: Mapping[str, "InContextVectors"] | None = None,
        metric: str | Metric | TextScore | None = "log_prob",
        n_queries: int | None = None,
        seeds: int | Iterable[int] = 0,
        n_shots: int = 5,
        instruction: bool = False,
        prepend_bos: bool | None = None,
        max_new_tokens: int = 50,
        engine: Engine | str = "auto",
        batch_size: int = 64,
        token_budget: int | None = None,
        progress: bool = False,
        store: str | Path | Store | None = None,
        executor: Executor | None = None,
    ) -> StrengthScores:
        """What the vectors do for a task's queries, by how far they steer.

        Beside them run random vectors of the same lengths, others for each seed ("random").

        Args:
            strengths: weights of `edit`.
            context: of the prompts that are steered: "none" (zero-shot), or "shuffled", examples
                whose labels are dealt out anew.
            against: more controls by name: vectors of other tasks, or of shuffled pairs.
            n_shots: examples in the prompts of the ceiling, and of shuffled ones.
            metric, seeds, prepend_bos, max_new_tokens, engine, batch_size: as in `sweep`.
            n_queries, token_budget: as in `sweep`, but for the default of 64 queries, or all.
            instruction: whether prompts hold the task's instruction.
            progress: whether to show a progress bar over the runs.
            store, executor: as in `sweep`.

        Raises:
            MaskError: vectors of other weights; strengths that are no numbers.
            TaskError, PromptError, ModelError, NumericalError: as their sources say.
        """
        setting = Setting.of(
            task, metric=metric, n_queries=n_queries, seeds=seeds, n_shots=n_shots,
            prepend_bos=prepend_bos, max_new_tokens=max_new_tokens,
        )  # fmt: skip
        weights = _check_strengths(strengths)
        arms = {"vector": self, **check_against(against, InContextVectors)}
        put = {name: (one.vectors, one.provenance) for name, one in arms.items()}
        all_runs = Runs(model, engine, batch_size, token_budget)
        with all_runs.showing("in_context.score", store, executor, progress=progress) as runs:
            fields = score_vectors(
                runs, setting, put, partial(_steerings, weights, True), context=context,
                instruction=instruction, said={},
            )  # fmt: skip
        return StrengthScores(strengths=weights, **fields)


def _check_strengths(strengths: Any) -> tuple[float, ...]:
    expected = "a number, or a list of numbers, each once"
    if not isinstance(strengths, Iterable):
        return (check_number("strengths", strengths, error=MaskError),)
    listed = check_items("strengths", strengths, expected, error=MaskError)
    found = tuple(check_number("strengths", one, error=MaskError) for one in listed)
    if not found or len({*found}) < len(found):
        refuse("strengths", strengths, expected, MaskError)
    return found


def _steerings(
    weights: Sequence[float],
    generated: bool,
    vectors: Float[Tensor, "layer d_model"],
    origin: Mapping[str, Any],
) -> list[Composition]:
    return [
        Composition(
            tuple(
                StateEdit(
                    "steer", vector, layer, "all", point="mlp_out", weight=weight,
                    generated=generated, origin=origin,
                )
                for layer, vector in enumerate(vectors)
            )
        )
        for weight in weights
    ]  # fmt: skip


@checked(TaskError, examples=anything, n_pairs=whole(2))
def in_context_vectors(
    model: Model,
    examples: Task | str | Path | Sequence[Example],
    *,
    n_pairs: int | None = None,
    seed: int = 0,
    shuffled: bool = False,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
) -> InContextVectors:
    """Measure how the states of targets differ from those of sources (Liu et al. 2023).

    Each source and each target is a text of its own, without a template; of each the last token's
    state after every block is taken, and the differences are D. The vectors are the mean of D plus
    its first principal direction, over all layers together.

    Args:
        examples: a task, whose ``train`` examples are the pairs; or the pairs.
        n_pairs: how many of them, drawn; ``None`` means all pairs, or 32 of a task's.
        seed: of the draw.
        shuffled: whether the targets are dealt out anew among the sources: a control.
        prepend_bos: as in `build_prompts`.
        batch_size: texts that run at once.

    Raises:
        TaskError: fewer than two pairs, or fewer than ``n_pairs``.
        PromptError, ModelError, NumericalError: as `build_prompts` and `states` do.
    """
    name, pairs = choose_pairs(examples, n_pairs, seed)
    if shuffled:
        pairs = shuffle_labels(pairs, f"{seed}/pairs")
    texts = [
        build_prompts(model, queries, n_shots=0, template=_BARE, prepend_bos=prepend_bos)
        for queries in (pairs, [Example(pair.target, pair.source) for pair in pairs])
    ]
    with hold_weights(model):
        recipe = describe_model(model)
        source, target = (last_states(model, some, batch_size) for some in texts)
    mean, direction, explained = principal_direction(target - source)
    shape = int(model.cfg.n_layers), -1
    return InContextVectors(
        means=mean.view(shape).float(),
        directions=direction.view(shape).float(),
        explained=explained,
        provenance={
            **recipe,
            "task": name,
            "n_pairs": len(pairs),
            "seed": seed,
            "shuffled": shuffled,
            "prompts_sha256": prompts_digest(texts),
        },
    )
