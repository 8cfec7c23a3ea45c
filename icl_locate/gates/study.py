"""Which heads can go, and which are needed? Gates learnt on a task, and what they are worth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from tqdm.auto import tqdm

from icl_locate.checks.arguments import check_count
from icl_locate.checks.signatures import anything, checked
from icl_locate.errors import TaskError
from icl_locate.gates.config import GateConfig
from icl_locate.gates.result import GatesResult, Head, closed_by, order_of
from icl_locate.gates.train import learn
from icl_locate.interventions.ablation import HeadAblation
from icl_locate.interventions.masks import NOTHING
from icl_locate.metrics import Metric, TextScore, score_totals
from icl_locate.metrics.base import check_columns
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Example, choose_examples
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.store import Store
from icl_locate.studies.kept import training_file
from icl_locate.studies.naming import describe_computing
from icl_locate.studies.place import Executor, using
from icl_locate.studies.recipe import prompts_digest
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task


@checked(TaskError, task=anything, metric=anything)
def train_gates(
    model: Model,
    task: Task | str | Path,
    config: GateConfig | None = None,
    *,
    n_shots: int = 5,
    instruction: bool = False,
    n_train: int = 200,
    n_dev: int = 64,
    n_queries: int | None = None,
    metric: str | Metric | TextScore | None = None,
    max_new_tokens: int = 50,
    n_curve: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> GatesResult:
    """Learn a gate for each head's output, with the model itself frozen.

    The model is restored at the end, after an exception too; its weights never change.

    Args:
        config: how; ``None`` means the defaults of `GateConfig`.
        n_shots, instruction: what the prompts hold: with context, or (0 and False) without.
        n_train, n_dev: prompts to learn from and to stop by: the first ones of ``task.train`` that
            are no queries.
        n_queries, metric, max_new_tokens: as in `sweep`, for the scores with heads closed.
        n_curve: how many heads the pruning curve closes; ``None`` means all.
        checkpoint: files to which the state is written after each epoch, and from which training
            goes on if they are there; the result is the same as without an interruption.
        progress: whether to show a progress bar over epochs.
        store, executor: as in `sweep`, for the scores with heads closed; without a ``checkpoint``
            the store keeps the state of the training, too.

    Raises:
        TaskError: too few examples or queries.
        ResultError: if the checkpoint is of another model, task or configuration.
        NumericalError: if the loss is not a number.
        PromptError, ModelError: as `build_prompts` and `generate` do.
    """
    config = config or GateConfig()
    setting = Setting.of(
        task,
        metric=metric,
        n_queries=n_queries,
        seeds=config.seed,
        n_shots=n_shots,
        max_new_tokens=max_new_tokens,
    )
    n_curve = _check_sizes(model, setting, n_train, n_dev, n_curve)
    study = _Study(model, setting, config, instruction, n_train, n_dev)
    with using(store, executor, study="train_gates"):
        return study.result(n_curve, checkpoint, progress=progress)


@dataclass
class _Study:
    """The prompts of a study, and what is learnt and scored on them."""

    model: Model
    setting: Setting
    config: GateConfig
    instruction: bool
    n_train: int
    n_dev: int

    def result(self, n_curve: int, checkpoint: str | Path | None, *, progress: bool) -> GatesResult:
        """Learn the gates, then close heads in their order, and those whose gates closed."""
        setting, bank = self.setting, self.setting.unasked
        train = self._learnt(bank[: self.n_train])
        dev = self._learnt(bank[self.n_train :][: self.n_dev])
        test = self._prompts()
        recipe = {
            **setting.recipe(self.model, [test]),
            **asdict(self.config),
            "instruction": self.instruction,
            "n_train": self.n_train,
            "n_dev": self.n_dev,
            "training_sha256": prompts_digest([train, dev]),
        }
        identity = {
            **asdict(self.config),
            **describe_computing(self.model),
            "prompts_sha256": recipe["training_sha256"],
        }
        state = learn(
            self.model,
            train,
            dev,
            self.config,
            checkpoint=training_file(identity) if checkpoint is None else checkpoint,
            recipe=identity,
            progress=progress,
        )
        sets = [frozenset(order_of(state.best_alpha)[:size]) for size in range(n_curve + 1)]
        table = self._close(test, [*sets, closed_by(state.best_alpha)], progress=progress)
        scores = score_totals(setting.metric, table.sum(axis=-2)).tolist()
        return GatesResult(
            objective=str(self.config.objective),
            alpha=state.best_alpha,
            n_epochs=state.epoch,
            whole=scores[0],
            pruned=scores[-1],
            curve=torch.tensor(scores[:-1]),
            metric=setting.metric.name,
            provenance={**recipe, "dev_objectives": state.history, **setting.outcome()},
            statistics=torch.from_numpy(table[:-1]),
            custom_metric=setting.custom_metric,
        )

    def _prompts(self, **given: Any) -> Prompts:
        seed = self.config.seed
        return self.setting.prompts(self.model, seed, instruction=self.instruction, **given)

    def _learnt(self, queries: Sequence[Example]) -> Prompts:
        """Prompts to learn from: none of their examples is asked, either."""
        setting, bank = self.setting, self.setting.unasked
        n_shots, seed, choice = setting.n_shots, self.config.seed, str(setting.choice)
        shots = [choose_examples(q, bank, n_shots, seed=seed, choice=choice) for q in queries]
        return self._prompts(queries=queries, shots=shots)

    def _close(
        self, prompts: Prompts, sets: Sequence[frozenset[Head]], *, progress: bool
    ) -> Float[ndarray, "set item stat"]:
        """The statistics of each item with the heads of each set at zero; equal sets run once."""
        runs = [HeadAblation(heads) if heads else NOTHING for heads in sets]
        with tqdm(total=len(runs), unit="set", desc="closing", disable=not progress) as bar:
            cells = self.setting.run(
                self.model, prompts, runs, engine="hooks", batch_size=self.config.batch_size,
                on_progress=bar.update,
            )  # fmt: skip
        tables = [cell.statistics for cell in cells]
        check_columns(self.setting.metric, tables)
        return np.stack(tables)


def _check_sizes(
    model: Model, setting: Setting, n_train: int, n_dev: int, n_curve: int | None
) -> int:
    """How many heads the pruning curve closes."""
    n_prompts = len(setting.unasked)
    if n_train + n_dev > n_prompts:
        raise TaskError(
            f"n_train is {n_train}, n_dev {n_dev}: expected 1 or more of each, together at most "
            f"the {n_prompts} examples of {setting.task.name!r} that are no queries"
        )
    n_all = int(model.cfg.n_layers) * int(model.cfg.n_heads)
    if n_curve is None:
        return n_all
    return check_count("n_curve", n_curve, least=0, most=n_all, error=TaskError)
