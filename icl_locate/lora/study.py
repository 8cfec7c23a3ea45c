"""Tuning every layer by itself, in one call that can be interrupted."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from icl_locate.checks.arguments import check_counts, refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.decoding import check_targets
from icl_locate.errors import ModelError, TaskError
from icl_locate.lora.adapters import Lesson, TeacherLoader
from icl_locate.lora.config import PRESETS, LoraConfig
from icl_locate.lora.projections import output_projections
from icl_locate.lora.result import LoraResult
from icl_locate.lora.train import Training
from icl_locate.metrics import Answers, Metric, Statistics, TextScore, require_answers, score_totals
from icl_locate.metrics.base import check_columns
from icl_locate.metrics.readouts import GENERATED_TEXT
from icl_locate.models.names import EMBEDDED
from icl_locate.records.store import Store
from icl_locate.studies.kept import keep_answers
from icl_locate.studies.place import Executor, using
from icl_locate.studies.schedule import run_works
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task


@checked(TaskError, task=anything, layers=anything, metric=anything)
def lora_by_layer(
    model: str | Path | None,
    task: Task | str | Path,
    output: str | Path,
    config: LoraConfig | str | None = None,
    *,
    layers: Iterable[int] | None = None,
    seeds: int | Iterable[int] = (0, 1),
    n_queries: int | None = None,
    metric: str | Metric | TextScore | None = None,
    max_new_tokens: int = 50,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> LoraResult:
    """Tune the attention output projection of each layer by itself, and score each tuned model.

    Prompts hold neither instruction nor examples: a tuned layer has to do what the context did.
    Adapters are written as peft writes them (``output/seed_S/layer_L``) and load with
    ``PeftModel.from_pretrained``; the state of each training is written after every epoch, and a
    call with the same output goes on where the last one ended, to the same weights.

    Args:
        model: a name on the Hub or a local directory; ``None`` or "embedded" for the embedded one.
        task: pairs to learn from, those of ``task.train`` that are no queries, and to be scored on
            (``task.test``).
        output: directory of the adapters and checkpoints.
        config: a `LoraConfig`, or "sia2024" or "sia2024-v1"; ``None`` means the first.
        layers: which; ``None`` means all.
        seeds: each initialises adapters and orders pairs anew.
        n_queries, metric, max_new_tokens: as in `sweep`.
        device, dtype, revision: where and how the model is loaded, as `load_model` says.
        progress: whether to show a progress bar over layers and seeds.
        store: as in `sweep`, for the answers; trainings go on from ``output``.
        executor: as in `sweep`, for whole layers: its workers must see ``output``.

    Raises:
        TaskError: too few pairs or queries, an unknown preset, a metric without answers.
        ModelError: if the model cannot be loaded, or has no such layers or projections.
        ResultError: if the output holds another training's checkpoints.
        NumericalError: if a loss is not a number.
    """
    setting, chosen = prepare(
        task, config, metric=metric, n_queries=n_queries, seeds=seeds, max_new_tokens=max_new_tokens
    )
    name = EMBEDDED if model is None else str(model)
    with using(store, executor, study="lora_by_layer"):
        here = str(Path(model).absolute()) if model and Path(model).is_dir() else model
        load = TeacherLoader(setting, chosen, here, device, dtype, revision)
        return _tune(load, name, layers, Path(output).absolute(), progress=progress)


def prepare(
    task: Task | str | Path, config: LoraConfig | str | None, **asked: Any
) -> tuple[Setting, LoraConfig]:
    """What adapters are scored on, and how they are trained: checked, with nothing loaded.

    Args:
        asked: options of `Setting.of`.

    Raises:
        TaskError: as `lora_by_layer` does.
    """
    chosen = _choose_config(config)
    setting = Setting.of(task, n_shots=0, **asked)
    _check(setting, chosen)
    return setting, chosen


def _tune(
    load: TeacherLoader, name: str, layers: Iterable[int] | None, output: Path, *, progress: bool
) -> LoraResult:
    """Every layer by itself, with every seed."""
    teacher = load()
    setting, metric = teacher.setting, teacher.setting.metric
    recipe = teacher.recipe(name)
    names = output_projections(teacher.base)
    wanted = _choose_layers(layers, len(names))
    recipe |= {"projections": names, "layers": list(wanted)}
    untuned = teacher.untuned()
    lessons = [
        teacher.lesson(layer, names[layer], seed, output / f"seed_{seed}" / f"layer_{layer}")
        for layer, seed in product(wanted, setting.seeds)
    ]
    found: dict[tuple[int, int], tuple[Training, Statistics]] = {}
    with tqdm(
        total=len(lessons), unit="adapter", desc=setting.task.name, disable=not progress
    ) as bar:

        def keep(lesson: Lesson, learnt: tuple[Training, Answers]) -> None:
            state, answers = learnt
            if lesson.known is None:
                keep_answers(lesson.slot, GENERATED_TEXT, answers)
            found[lesson.layer, lesson.seed] = state, teacher.score(answers)
            bar.update()

        run_works(load, teacher, lessons, keep)
    states, tables = zip(*(found[lesson.layer, lesson.seed] for lesson in lessons), strict=True)
    check_columns(metric, tables)
    cells = len(wanted), len(setting.seeds)
    statistics = np.stack(tables).reshape(*cells, *tables[0].shape)
    return LoraResult(
        layers=wanted,
        seeds=setting.seeds,
        statistics=torch.from_numpy(statistics),
        scores=torch.from_numpy(score_totals(metric, statistics.sum(axis=-2))),
        dev_losses=torch.tensor([state.best for state in states]).view(cells),
        n_epochs=torch.tensor([state.epoch for state in states]).view(cells),
        untuned=float(score_totals(metric, untuned.sum(axis=0))),
        metric=metric.name,
        provenance=recipe | setting.outcome(),
        custom_metric=setting.custom_metric,
        untuned_statistics=torch.from_numpy(untuned),
    )


def _choose_config(config: LoraConfig | str | None) -> LoraConfig:
    if isinstance(config, LoraConfig):
        return config
    name = "sia2024" if config is None else config
    if name not in PRESETS:
        expected = f"a LoraConfig or one of {', '.join(map(repr, PRESETS))}"
        refuse("config", name, expected, TaskError)
    return PRESETS[name]


def _choose_layers(layers: Iterable[int] | None, n_layers: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(n_layers))
    return tuple(
        sorted(check_counts("layers", layers, least=0, most=n_layers - 1, error=ModelError))
    )


def _check(setting: Setting, config: LoraConfig) -> None:
    task, template = setting.task, setting.task.template_for(instruction=False)
    n_pairs = len(setting.unasked)
    if config.n_train + config.n_dev > n_pairs:
        raise TaskError(
            f"n_train is {config.n_train}, n_dev {config.n_dev}: the task {task.name!r} has only "
            f"{n_pairs} pairs to learn from that are not among the {setting.n_queries} queries"
        )
    require_answers(setting.metric)
    check_targets(
        [query.target.strip() for query in setting.queries], template.stops, setting.metric
    )
