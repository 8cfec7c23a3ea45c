"""Does in-context learning die with the induction heads? Ablation against random controls."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate.checks.arguments import check_shares
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.choice import Engine, choose_engine
from icl_locate.errors import MaskError, TaskError
from icl_locate.induction.arms import Arm
from icl_locate.induction.reference import head_reference
from icl_locate.induction.result import AblationResult
from icl_locate.induction.scores import HeadScores, prefix_matching_scores
from icl_locate.induction.selection import knockout, random_heads, select_heads
from icl_locate.induction.sequences import Sequences
from icl_locate.interventions.ablation import METHODS, HeadAblation, HeadReference
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.edges import Match
from icl_locate.interventions.heads import HeadSet
from icl_locate.interventions.layers import as_pairs
from icl_locate.interventions.masks import NOTHING
from icl_locate.metrics import Metric, TextScore, score_totals
from icl_locate.metrics.base import check_columns
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.template import Choice
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.place import Executor, using
from icl_locate.studies.setting import Setting
from icl_locate.studies.units import Request
from icl_locate.tasks.loading import load_task
from icl_locate.tasks.patterns import WORD_PATTERNS
from icl_locate.tasks.task import Task, check_shots

INTERVENTIONS = (*METHODS, "knockout")

Heads = HeadScores | Float[Tensor, "layer head"] | np.ndarray | Collection[Sequence[int]]
Selections = dict[tuple[float, ...], HeadSet]


@checked(
    TaskError, task=anything, heads=anything, fractions=anything, shots=anything, metric=anything
)
def ablation_study(
    model: Model,
    task: Task | str | Path,
    heads: Heads | None = None,
    controls: int = 3,
    fractions: float | Iterable[float] = (0.01, 0.03),
    shots: int | Iterable[int] = (10,),
    seeds: int | Iterable[int] = (0, 1, 2),
    *,
    interventions: Sequence[str] = ("mean_z", "knockout"),
    n_queries: int | None = None,
    metric: str | Metric | TextScore | None = None,
    reference: HeadReference | None = None,
    match: Match | str | None = None,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    max_new_tokens: int = 50,
    batch_size: int = 32,
    engine: Engine | str = "auto",
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> AblationResult:
    """Take induction heads out of a model, and as many random heads, and score a task with each.

    The experiment of Crosbie and Shutova (2024, sections 4 and 5). All arms run on the same
    prompts, so that comparisons are paired. Other options are as in `sweep`.

    Args:
        heads: what `head_scores` gave, or a score for every head, of which each fraction takes the
            best (``None``: `prefix_matching_scores`); or (layer, head) pairs, taken as they are.
        controls: random selections beside each, as many heads in each layer, none in common.
        fractions: shares of all heads, or one; those that choose the same heads are one arm.
        shots: numbers of examples in a prompt, or one.
        interventions: of "zero", "mean_z", "mean_input", "resample" (`HeadAblation`), "knockout".
        reference: where an intervention asks for one; ``None`` measures it on the study's prompts
            with other queries: the last of ``task.train``.
        match: what `knockout` counts as an occurrence; ``None``: "word" for the pattern tasks of
            words, else "token".

    Raises:
        TaskError, MaskError: an option out of range; no such heads, or too few for controls.
        PromptError, ModelError, NumericalError: as their sources say.
    """
    _check_interventions(interventions)
    task = load_task(task)
    numbers = check_shots(task, shots)
    setting = Setting.of(
        task,
        metric=metric,
        n_queries=n_queries,
        seeds=seeds,
        n_shots=max(numbers),
        choice=choice,
        prepend_bos=prepend_bos,
        max_new_tokens=max_new_tokens,
    )
    runs = _Runs(model, setting, numbers, batch_size, engine, progress)
    with using(store, executor, study="ablation_study"):
        return runs.result(heads, fractions, interventions, controls, reference, match)


@dataclass(frozen=True)
class _Runs:
    """The prompts of a study, and every intervention on them."""

    model: Model
    setting: Setting
    shots: tuple[int, ...]
    batch_size: int
    engine: Engine | str
    progress: bool

    def result(
        self,
        heads: Heads | None,
        fractions: float | Iterable[float],
        interventions: Sequence[str],
        controls: int,
        reference: HeadReference | None,
        match: Match | str | None,
    ) -> AblationResult:
        """Choose the arms, run them all, and collect what they scored."""
        setting = self.setting
        shown = [
            replace(setting, n_shots=n_shots).prompts(self.model, seed)
            for n_shots in self.shots
            for seed in setting.seeds
        ]
        recipe = {**setting.recipe(self.model, shown), "shots": list(self.shots)}
        scores, how_scored = _score(self.model, heads)
        arms = _arms(_select(self.model, scores, fractions), interventions, controls)
        if reference is None and set(interventions) & set(METHODS) - {"zero"}:
            reference = _measure_reference(self.model, setting, self.batch_size)
        match = match or _match_of(setting.task)
        recipe |= {
            "head_scores": how_scored,
            "match": match,
            "reference": None if reference is None else dict(reference.provenance),
        }
        acts = [_intervention(arm, reference, match) for arm in arms]
        engine = choose_engine(self.model, self.engine, acts)
        recipe |= {"engine": engine}
        table = self._run(acts, shown, engine)
        table = table.reshape(len(arms), len(self.shots), len(setting.seeds), *table.shape[-2:])
        return AblationResult(
            arms=arms,
            shots=self.shots,
            seeds=setting.seeds,
            statistics=torch.from_numpy(table),
            scores=torch.from_numpy(score_totals(setting.metric, table.sum(axis=-2))),
            metric=setting.metric.name,
            provenance=recipe | setting.outcome(),
            custom_metric=setting.custom_metric,
            reference=reference,
        )

    def _run(
        self, acts: Sequence[Intervention], shown: Sequence[Prompts], engine: Engine
    ) -> Float[np.ndarray, "arm prompts item stat"]:
        """The statistics of every query in every prompt under every intervention."""
        setting = self.setting
        n_runs = len(acts) * len(shown)
        with (
            hold_weights(self.model),
            tqdm(
                total=n_runs, unit="run", desc=setting.task.name, disable=not self.progress
            ) as bar,
        ):
            found = setting.run_all(
                self.model,
                [Request(prompts, acts) for prompts in shown],
                engine=engine,
                batch_size=self.batch_size,
                on_progress=bar.update,
            )
        tables = [cell.statistics for cells in found for cell in cells]
        check_columns(setting.metric, tables)
        stacked = np.stack(tables).reshape(len(shown), len(acts), *tables[0].shape)
        return stacked.swapaxes(0, 1)


def _measure_reference(model: Model, setting: Setting, batch_size: int) -> HeadReference:
    """Means of the heads on prompts of the study's kind, with other queries."""
    others = setting.unasked
    if not others:
        raise TaskError(
            f"the task {setting.task.name!r} has no other queries to measure a reference on: give "
            "reference=head_reference(model, ...), or fewer queries"
        )
    corpus = setting.prompts(model, -1, queries=others[-setting.n_queries :])
    return head_reference(model, corpus, batch_size=batch_size)


def _match_of(task: Task) -> Match:
    return "word" if task.name.partition("/")[0] in WORD_PATTERNS else "token"


def _check_interventions(interventions: Sequence[str]) -> None:
    unknown = [name for name in interventions if name not in INTERVENTIONS]
    if unknown or not interventions or len(set(interventions)) < len(interventions):
        raise TaskError(
            f"interventions are {list(interventions)}: expected one or more of "
            f"{', '.join(INTERVENTIONS)}, each once"
        )


def _score(
    model: Model, heads: Heads | None
) -> tuple[Float[Tensor, "layer head"] | np.ndarray | Collection[Sequence[int]], Any]:
    """The heads' scores, or the heads themselves; and how they were scored, where that is known."""
    if isinstance(heads, HeadScores):
        return heads.induction, dict(heads.provenance)
    if heads is None:
        fitted = Sequences.fit(model)
        scores = prefix_matching_scores(model, lengths=fitted.lengths, n_copies=fitted.n_copies)
        return scores, fitted.recipe
    return heads, None


def _select(
    model: Model,
    heads: Float[Tensor, "layer head"] | np.ndarray | Collection[Sequence[int]],
    fractions: float | Iterable[float],
) -> Selections:
    """The selections by their shares of all heads; shares that choose the same heads stand once."""
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    if isinstance(heads, np.ndarray) and np.issubdtype(heads.dtype, np.floating):
        heads = torch.from_numpy(heads)
    if not isinstance(heads, Tensor):
        pairs = tuple(heads) if isinstance(heads, HeadSet) else tuple(sorted(as_pairs(heads)))
        check_shares("fractions", fractions, least=0, error=MaskError)  # not used, and checked
        if not pairs:
            raise MaskError("no heads were given: expected at least one, or scores")
        return {(len(pairs) / (n_layers * n_heads),): HeadSet(pairs, n_layers, n_heads)}
    if heads.shape != (n_layers, n_heads):
        raise MaskError(
            f"the heads' scores are {tuple(heads.shape)}: expected (layer, head) = "
            f"{(n_layers, n_heads)}"
        )
    given = check_shares("fractions", fractions, error=MaskError)
    found = [select_heads(heads, fraction) for fraction in given]
    shares: dict[tuple[tuple[int, int], ...], list[float]] = {}
    for fraction, chosen in zip(given, found, strict=True):
        shares.setdefault(chosen.heads, []).append(fraction)
    sets = {chosen.heads: chosen for chosen in found}
    return {tuple(some): sets[pairs] for pairs, some in shares.items()}


def _arms(
    selections: Mapping[tuple[float, ...], HeadSet], interventions: Sequence[str], controls: int
) -> tuple[Arm, ...]:
    """The whole model; then for each intervention every selection, its controls behind it."""
    arms = [Arm("none", "full", 0.0, 0, ())]
    for name, (fractions, found) in product(interventions, selections.items()):
        most = max(fractions)
        arms.append(Arm(name, "induction", most, 0, found.heads, fractions))
        arms += [
            Arm(name, "random", most, i, random_heads(found, seed=i).heads, fractions)
            for i in range(controls)
        ]
    return tuple(arms)


def _intervention(arm: Arm, reference: HeadReference | None, match: Match | str) -> Intervention:
    """What is done to an arm's heads."""
    if arm.kind == "full":
        return NOTHING
    if arm.intervention == "knockout":
        return knockout(frozenset(arm.heads), match=match)
    return HeadAblation(frozenset(arm.heads), arm.intervention, reference)
