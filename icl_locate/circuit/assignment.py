"""How much of what the query looks at, among the examples' labels, is of the right class."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm.auto import tqdm

from icl_locate.checks.signatures import anything, checked
from icl_locate.circuit.attended import (
    Cells,
    empty_sums,
    run_watched,
    watch_sums,
)
from icl_locate.circuit.inputs import DEFAULT_SHOTS, CircuitSetting, Compat, Measure
from icl_locate.circuit.result import LayerMeasure, layer_measure
from icl_locate.circuit.retrieval import Shown
from icl_locate.circuit.streams import by_seed
from icl_locate.engine.forward import require_numbers
from icl_locate.errors import TaskError
from icl_locate.hooks.heads import watch
from icl_locate.hooks.points import HOOKS, check_point
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice
from icl_locate.records.store import Store
from icl_locate.studies.kept import keep_tables
from icl_locate.studies.place import using
from icl_locate.tasks.task import Task

ARMS = ("best head", "mean head", "vanilla")
LEAST = 1e-5
"""Added to all of a head's attention to labels, so that none to any is no division by zero."""


@checked(TaskError, task=anything)
def label_assignment(
    model: Model,
    task: Task | str | Path,
    *,
    n_shots: int = DEFAULT_SHOTS,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = 0,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    instruction: bool = False,
    compat: Compat | None = None,
    batch_size: int = 32,
    progress: bool = False,
    store: str | Path | Store | None = None,
) -> LayerMeasure:
    """How much of the query's attention to the examples' labels is paid to those of its class.

    Of a head, of all that the query's forerunner token pays to the first tokens of the labels, the
    share that the right ones get: right / (all + 1e-5) (Cho et al. 2025, section 4.2). Arms:

    - "best head": the head of the greatest mean share in one half of the prompts, measured in the
      other half, and the other way round; the halves are drawn with the seed;
    - "mean head": the mean over heads;
    - "vanilla": the same with the cosine similarity of the states that enter the layer at the
      example's and the query's forerunner tokens in place of attention: what a head without
      weights of its own would assign. It may be below 0 or above 1 where states oppose each other.

    Args:
        n_shots, n_queries, seeds, choice, prepend_bos, instruction, batch_size, progress: as in
            `forerunner_heads`; two queries or more.
        compat: "cho2025" takes as best head that of the greatest share in each prompt itself, as
            the authors do, which is above chance where no head knows anything; and reads attention
            from the last token but one.

    Returns:
        ``layers`` are blocks; ``chance`` is the mean share of examples of the right class, NaN of
        the authors' best head.

    Raises:
        TaskError, PromptError, ModelError, NumericalError: as `forerunner_heads` does.
    """
    chosen = CircuitSetting.of(
        task, Measure("label_assignment", f"least:{LEAST:g}|compat:{compat}"), n_shots=n_shots,
        n_queries=n_queries, seeds=seeds, choice=choice, prepend_bos=prepend_bos,
        instruction=instruction,
    )  # fmt: skip
    with using(store, study="label_assignment"):
        return _assign(model, chosen, compat, batch_size, progress=progress)


def _assign(
    model: Model, chosen: CircuitSetting, compat: str | None, batch_size: int, *, progress: bool
) -> LayerMeasure:
    if chosen.setting.n_queries < 2 and compat is None:
        raise TaskError(
            "n_queries is 1: the best head is chosen on one half of the queries and measured on "
            "the other, expected 2 or more; or give compat='cho2025'"
        )
    plan = [Shown.of(chosen, model, seed, compat) for seed in chosen.setting.seeds]
    recipe = chosen.recipe(model, [shown.prompts for shown in plan], compat=compat)
    total, tables = chosen.setting.n_queries * len(plan), []
    with tqdm(total=total, unit="prompt", desc="label assignment", disable=not progress) as bar:
        for shown in plan:
            shares = partial(_shares, model, shown, batch_size, bar.update)
            said = {"measured": "assignment", "rows": shown.rows, "right": shown.right}
            kept = keep_tables(model, [shown.prompts], said, shares)
            heads, vanilla = kept["heads"], kept["vanilla"]
            best = heads.amax(dim=1) if compat else cross_fitted(heads, shown.seed)
            tables.append((best, heads.mean(dim=1), vanilla))
    chance = _chance(plan)
    arms = dict(zip(ARMS, zip(*tables, strict=True), strict=True))
    return layer_measure(
        {arm: by_seed(list(shares)) for arm, shares in arms.items()},
        seeds=chosen.setting.seeds,
        chance=(chance if compat is None else float("nan"), chance, chance),
        metric=chosen.setting.metric.name,
        provenance=recipe,
    )


def cross_fitted(
    shares: Float[Tensor, "layer head item"], seed: int
) -> Float[Tensor, "layer item"]:
    """Each item's share of the head that is best in the half of the items which it is not in."""
    n_items = shares.shape[-1]
    order = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed))
    found = torch.empty_like(shares[:, 0])
    halves = order[: n_items // 2], order[n_items // 2 :]
    for chosen, scored in (halves, halves[::-1]):
        best = shares[..., chosen].mean(dim=-1).argmax(dim=1)
        found[:, scored] = shares[torch.arange(len(shares)), best][:, scored]
    return found


def _chance(plan: list[Shown]) -> float:
    return float(torch.stack([shown.right.double().mean() for shown in plan]).mean())


def _shares(
    model: Model, shown: Shown, batch_size: int, told: Callable[[int], object]
) -> dict[str, Tensor]:
    """The shares of the right labels: of each head, and by the states alone; from one pass.

    Returns:
        "heads", of layer, head and prompt; "vanilla", of layer and prompt.
    """
    check_point(model, "resid_pre")
    every = torch.ones_like(shown.right)
    cells = Cells(shown.rows, shown.types.y, torch.stack([shown.right, every]).float())
    paid = empty_sums(model, cells)
    alike = torch.full_like(paid[:, :, 0], torch.nan)
    run_watched(model, shown.prompts, partial(_watch, model, shown, cells, paid, alike),
                batch_size, told)  # fmt: skip
    for sums in (paid, alike):
        require_numbers(sums.movedim(-1, 0))
    heads, vanilla = (right / (all_ + LEAST) for right, all_ in (paid.double(), alike.double()))
    return {"heads": heads, "vanilla": vanilla}


@contextmanager
def _watch(
    model: Model,
    shown: Shown,
    cells: Cells,
    paid: Tensor,
    alike: Tensor,
    items: range,
    skipped: int,
) -> Iterator[None]:
    """Keep the attention and the similarities of the prompts that run inside."""
    keep = partial(_keep_alike, shown, cells, alike, items, skipped)
    with watch_sums(model, cells, paid, items, skipped), watch(model, HOOKS["resid_pre"], keep):
        yield


def _keep_alike(
    shown: Shown,
    cells: Cells,
    alike: Tensor,
    items: range,
    skipped: int,
    layer: int,
    states: Tensor,
) -> None:
    part, rows = slice(items.start, items.stop), torch.arange(len(items), device=states.device)
    places = torch.cat([shown.types.s[part], shown.types.query_s[part, None]], dim=1) - skipped
    found = states[rows[:, None], places.to(states.device)].float()
    similar = cosine_similarity(found[:, :-1], found[:, -1:], dim=-1)
    weights = cells.weights[:, part].to(states.device)
    alike[:, layer, part] = (weights * similar).sum(dim=-1).cpu()
