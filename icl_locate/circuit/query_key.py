"""Labels as an induction head sees them: through its queries' and keys' matrices, in a plane."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icl_locate.checks.arguments import check_count, check_text, refuse
from icl_locate.checks.contents import check_names, check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.circuit.attended import run_watched
from icl_locate.circuit.inputs import CircuitSetting, Compat, Measure
from icl_locate.circuit.result import HeadMeasure
from icl_locate.circuit.retrieval import COUNTED, Shown, induction_heads
from icl_locate.engine.forward import require_numbers
from icl_locate.errors import ResultError, TaskError
from icl_locate.hooks.heads import Watcher, watch
from icl_locate.hooks.points import HOOKS
from icl_locate.models.bridge import Model
from icl_locate.models.projection import query_key_weights
from icl_locate.prompts.template import Choice
from icl_locate.records.saved import Saved
from icl_locate.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd


@short_repr("layer", "head", "counted", "asked")
@dataclass(frozen=True)
class QueryKeyView(
    Saved,
    form="icl_locate.QueryKeyView/1",
    tensors=("points", "query", "zero", "explained"),
    labels=("classes", "asked", "layer", "head", "counted", "provenance"),
):
    """One prompt's labels as points of a plane; the nearer the query's direction, the more seen.

    Attributes:
        points: of each example's label.
        query: of the query's forerunner token.
        zero: of a state of zeros, from which directions count.
        explained: the share of the points' variance along each of the two directions.
        classes: of each example's label.
        asked: the query's.
        layer, head: whose matrices these are.
        counted: the share of prompts in which the head counts as a correct induction head; ``None``
            if it was given.
        provenance: model, task, prompts' hash, versions, options.
    """

    points: Float[Tensor, "shot 2"]
    query: Float[Tensor, "2"]
    zero: Float[Tensor, "2"]
    explained: Float[Tensor, "2"]
    classes: tuple[str, ...]
    asked: str
    layer: int
    head: int
    counted: float | None
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        settle(
            self,
            classes=check_names("classes", self.classes),
            asked=check_text("asked", self.asked, error=ResultError),
            provenance=check_recipe(self.provenance),
            **{
                name: check_count(name, getattr(self, name), least=0, error=ResultError)
                for name in ("layer", "head")
            },
        )
        if self.counted is not None and not isinstance(self.counted, float):
            refuse("counted", self.counted, "a share of prompts, or None", ResultError)
        check_table("points", self.points, (len(self.classes), 2))
        for name in ("query", "zero", "explained"):
            check_table(name, getattr(self, name), (2,))

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a point: kind ("label", "query" or "zero"), label, x, y."""
        import pandas as pd

        rows = torch.cat([self.points, self.query[None], self.zero[None]]).tolist()
        kinds = [*["label"] * len(self.classes), "query", "zero"]
        labels = [*self.classes, self.asked, ""]
        return pd.DataFrame(
            [(kind, label, *row) for kind, label, row in zip(kinds, labels, rows, strict=True)],
            columns=["kind", "label", "x", "y"],
        )


@checked(TaskError, task=anything, n_shots=whole(3))
def query_key_view(
    model: Model,
    task: Task | str | Path,
    *,
    layer: int | None = None,
    head: int | None = None,
    item: int = 0,
    n_shots: int = 16,
    n_queries: int | None = None,
    seed: int = 0,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    instruction: bool = False,
    compat: Compat | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> QueryKeyView:
    """Labels' states through a head's W_Q^T W_K, in the plane in which they differ most.

    W_Q^T W_K makes of a label's state one in the space of the query's states: the product of both
    is what the head's score is made of (Cho et al. 2025, figure 7). States are those that enter the
    layer's attention, behind its norm, of the labels' last tokens and the query's forerunner token.
    Biases, rotary positions, and norms of queries and keys are left out.

    Args:
        layer, head: which; ``None`` means the head (of the layer, if that is given) that counts in
            most prompts as a correct induction head (`induction_heads`); of several, the one that
            pays most by its attention.
        item: which query's prompt is shown, of the first ``n_queries``.
        n_shots: 3 or more.
        n_queries, choice, prepend_bos, instruction, batch_size, progress: as in
            `forerunner_heads`.
        seed: of the examples.
        compat: "cho2025" takes the states in front of the norm, at the labels' first tokens, and
            with grouped queries the keys of the head's number modulo their groups, as the authors'
            code does.

    Raises:
        TaskError: a layer, head or item that there is not; a head without its layer.
        ModelError: if the model's queries and keys are not made by one matrix each.
        PromptError, NumericalError: as `forerunner_heads` does.
    """
    asked: dict[str, Any] = {
        "n_shots": n_shots, "n_queries": n_queries, "seeds": seed, "choice": choice,
        "prepend_bos": prepend_bos, "instruction": instruction,
    }  # fmt: skip
    chosen = CircuitSetting.of(task, Measure("query_key_view", f"compat:{compat}"), **asked)
    check_count("item", item, least=0, most=chosen.setting.n_queries - 1, error=TaskError)
    _check_head(model, layer, head)
    if layer is None or head is None:
        runs: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "compat": compat}
        counts = induction_heads(model, task, **runs, **asked)
        return _view(model, chosen, item, *_most_counted(counts, layer, compat), compat)
    return _view(model, chosen, item, layer, head, None, compat)


def _view(
    model: Model,
    chosen: CircuitSetting,
    item: int,
    layer: int,
    head: int,
    counted: float | None,
    compat: str | None,
) -> QueryKeyView:
    shown = Shown.of(chosen, model, chosen.setting.seeds[0], compat)
    recipe = chosen.recipe(model, [shown.prompts], compat=compat, item=item)
    labels, query = _states(model, shown, item, layer, compat)
    queries, keys = query_key_weights(model, layer)
    group = head % len(keys) if compat else head // (len(queries) // len(keys))
    seen = labels @ keys[group].double().T @ queries[head].double()
    points, others, explained = _plane(seen, torch.stack([query, torch.zeros_like(query)]))
    return QueryKeyView(
        points=points,
        query=others[0],
        zero=others[1],
        explained=explained,
        classes=tuple(chosen.labels[label] for label in shown.inputs.shown[item].tolist()),
        asked=chosen.labels[int(shown.inputs.asked[item])],
        layer=layer,
        head=head,
        counted=counted,
        provenance=recipe,
    )


def _check_head(model: Model, layer: int | None, head: int | None) -> None:
    """Refuse a head that there is not, or whose layer nobody said."""
    if layer is not None:
        check_count("layer", layer, least=0, most=int(model.cfg.n_layers) - 1, error=TaskError)
    if head is not None:
        check_count("head", head, least=0, most=int(model.cfg.n_heads) - 1, error=TaskError)
        if layer is None:
            refuse("layer", layer, "the layer of the head that was given", TaskError)


def _most_counted(
    counts: HeadMeasure, layer: int | None, compat: str | None
) -> tuple[int, int, float]:
    """The layer and the head that counts in most prompts, and in how many.

    Of several the one of the greatest attention; the first of them for the authors' sake.
    """
    arm = counts.arms.index(COUNTED)
    found, paid = counts.scores[arm, ..., 0], counts.scores[arm + len(counts.arms) // 2, ..., 0]
    if compat is None:
        found = found + 1e-6 * paid  # less than a prompt's share
    first = 0 if layer is None else layer
    among = found if layer is None else found[layer : layer + 1]
    found_layer, head = divmod(int(among.flatten().argmax()), found.shape[1])
    layer = first + found_layer
    return layer, head, float(counts.scores[arm, layer, head, 0])


def _states(
    model: Model, shown: Shown, item: int, layer: int, compat: str | None
) -> tuple[Float[Tensor, "shot d_model"], Float[Tensor, "d_model"]]:
    """What enters the layer at the labels of a prompt, and at its query's forerunner token."""
    types, prompt = shown.types, shown.prompts.take([item])
    labels = types.y_last if compat is None else types.y
    places = torch.cat([labels[item], types.query_s[item : item + 1]])
    places = places - (shown.prompts.tokens.shape[1] - prompt.tokens.shape[1])
    kept: list[Tensor] = []
    name = "blocks.{}.attn.hook_in" if compat is None else HOOKS["resid_pre"]
    watching = partial(_watch, model, name, layer, partial(_keep, kept, places))
    run_watched(model, prompt, watching, 1)
    found = require_numbers(kept[-1])
    return found[:-1], found[-1]


@contextmanager
def _watch(
    model: Model,
    name: str,
    layer: int,
    keep: Watcher,
    items: range,  # noqa: ARG001
    skipped: int,  # noqa: ARG001
) -> Iterator[None]:
    with watch(model, name, keep, [layer]):
        yield


def _keep(kept: list[Tensor], places: Int[Tensor, "place"], layer: int, states: Tensor) -> None:  # noqa: ARG001
    kept.append(states[0, places.to(states.device)].double().cpu())


def _plane(
    points: Float[Tensor, "point width"], others: Float[Tensor, "other width"]
) -> tuple[Float[Tensor, "point 2"], Float[Tensor, "other 2"], Float[Tensor, "2"]]:
    """The first two principal components of points; where other points lie; the shares explained.

    The greatest entry of each direction is above 0. Where points differ in one direction alone, as
    label tokens do that no layer has told apart yet, there is no second one: its numbers are 0.
    """
    mean = points.mean(dim=0)
    _, sizes, directions = torch.linalg.svd(points - mean, full_matrices=False)
    two = directions[:2] * (sizes[:2, None] > 1e-6 * sizes[0])
    two = two * two.gather(1, two.abs().argmax(dim=1, keepdim=True)).sign()
    shares = sizes[:2] ** 2 / (sizes**2).sum().clamp(min=torch.finfo(sizes.dtype).tiny)
    return (points - mean) @ two.T, (others - mean) @ two.T, shares
