"""The function vector: what the heads that carry a task write together (Todd et al. 2024)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks.arguments import check_count, refuse
from icl_locate.checks.contents import check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.choice import Engine
from icl_locate.errors import MaskError, TaskError
from icl_locate.interventions.heads import HeadSet
from icl_locate.interventions.layers import list_pairs
from icl_locate.interventions.states import StateEdit
from icl_locate.metrics import Metric, TextScore
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import check_origin
from icl_locate.models.projection import project_heads
from icl_locate.records.saved import Saved
from icl_locate.records.store import Store
from icl_locate.studies.heads import as_head_set
from icl_locate.studies.place import Executor
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task
from icl_locate.vectors.effects import HeadIndirectEffects, head_indirect_effects
from icl_locate.vectors.injections import Context, check_against, score_vectors
from icl_locate.vectors.runs import Runs, choose_layers
from icl_locate.vectors.scores import LayerScores


@short_repr("model", "task", "heads", "vector")
@dataclass(frozen=True)
class FunctionVector(
    Saved,
    form="icl_locate.FunctionVector/1",
    tensors=("written", "effects"),
    labels=("heads", "provenance"),
):
    """What some heads write at the last token of prompts of a task, on average.

    Attributes:
        written: what each head writes: its mean output times its output weights; no bias.
        heads: in the order of their effects, the greatest first.
        effects: each head's indirect effect, by which it was chosen.
        provenance: of the effects, and ``selection``: how heads were chosen.
    """

    written: Float[Tensor, "head d_model"]
    heads: HeadSet
    effects: Float[Tensor, "head"]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        settle(self, heads=as_head_set(self.heads), provenance=check_recipe(self.provenance))
        check_table("written", self.written, (len(self.heads), None))
        check_table("effects", self.effects, (len(self.heads),))

    @property
    def vector(self) -> Float[Tensor, "d_model"]:
        """The sum of what the heads write."""
        return self.written.sum(dim=0)

    @property
    def layer(self) -> int:
        """Where it is added unless told otherwise: a third of the way up (Todd et al. 2024)."""
        return self.heads.n_layers // 3

    @checked(MaskError)
    def edit(self, layer: int | None = None, *, generated: bool = False) -> StateEdit:
        """The intervention that adds it at the last token of a prompt, after a layer.

        It is refused on a model of other weights.

        Args:
            layer: ``None`` means ``self.layer``.
            generated: whether it is added at every generated token, too.

        Raises:
            MaskError: if the model that it is of has no such layer.
        """
        at = self.layer if layer is None else layer
        if at >= self.heads.n_layers:
            raise MaskError(
                f"layer is {at}: expected 0 to {self.heads.n_layers - 1}, the layers of the model "
                "that the vector is of"
            )
        return _additions([at], generated, self.vector, self.provenance)[0]

    @checked(TaskError, task=anything, layers=anything, metric=anything, against=anything)
    def score(
        self,
        model: Model,
        task: Task | str | Path,
        layers: int | Iterable[int] | None = None,
        *,
        context: Context | str = "none",
        against: Mapping[str, "FunctionVector"] | None = None,
        metric: str | Metric | TextScore | None = "first_token_accuracy",
        n_queries: int | None = None,
        seeds: int | Iterable[int] = 0,
        n_shots: int = 10,
        instruction: bool = False,
        prepend_bos: bool | None = None,
        max_new_tokens: int = 50,
        generated: bool = False,
        engine: Engine | str = "auto",
        batch_size: int = 64,
        token_budget: int | None = None,
        progress: bool = False,
        store: str | Path | Store | None = None,
        executor: Executor | None = None,
    ) -> LayerScores:
        """What the vector does for a task's queries, added after each of some layers.

        Beside it runs a random vector of the same length, another one for each seed ("random").

        Args:
            layers: ``None`` means all.
            context: of the prompts that it is added to: "none" (zero-shot), or "shuffled", examples
                whose labels are dealt out anew.
            against: more controls by name: the vectors of other tasks, or of random heads.
            n_shots: examples in the prompts of the ceiling, and of shuffled ones.
            generated: whether it is added at every generated token, too.
            metric, seeds, prepend_bos, max_new_tokens, engine, batch_size: as in `sweep`.
            n_queries, token_budget: as in `sweep`, but for the default of 64 queries, or all.
            instruction: whether prompts hold the task's instruction.
            progress, store, executor: as in `sweep`.

        Raises:
            MaskError: layers that the model does not have; vectors of other weights.
            TaskError, PromptError, ModelError, NumericalError: as their sources say.
        """
        setting = Setting.of(
            task, metric=metric, n_queries=n_queries, seeds=seeds, n_shots=n_shots,
            prepend_bos=prepend_bos, max_new_tokens=max_new_tokens,
        )  # fmt: skip
        chosen = choose_layers(model, layers)
        arms = {"vector": self, **check_against(against, FunctionVector)}
        put = {name: (one.vector, one.provenance) for name, one in arms.items()}
        all_runs = Runs(model, engine, batch_size, token_budget)
        with all_runs.showing("function_vector.score", store, executor, progress=progress) as runs:
            fields = score_vectors(
                runs, setting, put, partial(_additions, chosen, generated), context=context,
                instruction=instruction, said={"generated": generated},
            )  # fmt: skip
        return LayerScores(layers=chosen, **fields)


def _additions(
    layers: Sequence[int],
    generated: bool,
    vector: Float[Tensor, "d_model"],
    origin: Mapping[str, Any],
) -> list[StateEdit]:
    return [
        StateEdit("add", vector, layer, "last", generated=generated, origin=origin)
        for layer in layers
    ]


@checked(MaskError, effects=anything, heads=anything)
def function_vector(
    model: Model,
    effects: HeadIndirectEffects | Task | str | Path,
    *,
    n_heads: int = 10,
    heads: Collection[Sequence[int]] | None = None,
    **options: Any,
) -> FunctionVector:
    """The function vector of a task: the sum of what its heads write on average (Todd et al. 2024).

    Each head's mean output at the last token goes through the weights of the output projection, on
    its own and without the projection's bias (which the authors' code adds once a head). Where the
    model has a norm between projection and residual stream, as Gemma 2 has, the vector stands
    before it.

    Args:
        effects: what `head_indirect_effects` gave; or a task, whose effects are then measured.
        n_heads: how many heads are summed up, those of the greatest effects.
        heads: these (layer, head) pairs instead, such as `induction.random_heads` of the first
            ones, for a control.
        options: of `head_indirect_effects`, where a task is given.

    Raises:
        MaskError: more heads than the model has, or heads that it does not have; effects that were
            measured on other weights.
        TaskError, PromptError, ModelError, NumericalError: as `head_indirect_effects` does.
    """
    if not isinstance(effects, (HeadIndirectEffects, Task, str, Path)):
        refuse("effects", effects, "what head_indirect_effects gave, or a task", MaskError)
    if not isinstance(effects, HeadIndirectEffects):
        effects = head_indirect_effects(model, effects, **options)
    elif options:
        raise MaskError(
            f"{', '.join(sorted(options))} belong to effects that are yet to be measured, but "
            "these are: leave them out, or give a task"
        )
    recipe, remedy = effects.provenance, "measure them on this one"
    check_origin("this table of effects", recipe, model, remedy, MaskError)
    n_layers, n_of_layer, _ = effects.mean_z.shape
    if heads is None:
        check_count("n_heads", n_heads, most=n_layers * n_of_layer, error=MaskError)
        chosen, selection = effects.best(n_heads), f"the {n_heads} greatest indirect effects"
    else:
        chosen, selection = HeadSet(tuple(list_pairs(heads)), n_layers, n_of_layer), "given"
    if not chosen:
        raise MaskError("heads are none: expected at least one")
    layers, of_layer = map(list, zip(*chosen.heads, strict=True))
    return FunctionVector(
        written=torch.cat(
            [
                project_heads(model, layer, [head], effects.mean_z[layer, head][None])
                for layer, head in chosen
            ]
        ),
        heads=chosen,
        effects=effects.effects[layers, of_layer],
        provenance={**recipe, "selection": selection, "bias": False},
    )
