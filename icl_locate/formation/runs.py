"""Training runs: one, or several under different clamps side by side."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from icl_locate.checks.arguments import check_text, refuse
from icl_locate.checks.signatures import anything, checked, whole
from icl_locate.errors import TaskError
from icl_locate.formation.clamps import PAPER_CLAMPS, Clamps
from icl_locate.formation.config import MOST, FormationConfig
from icl_locate.formation.model import FormationShape
from icl_locate.formation.result import FormationRun, FormationStudy
from icl_locate.formation.task import FormationTask
from icl_locate.formation.training import run
from icl_locate.records.files import as_path


@checked(TaskError, clamps=anything, n_sequences=whole(1, MOST))
def train(
    clamps: Clamps = (),
    n_sequences: int = 1_000_000,
    seed: int = 0,
    *,
    task: FormationTask | None = None,
    shape: FormationShape | None = None,
    learning_rate: float = 1e-5,
    batch_size: int = 32,
    head: int = 0,
    previous_head: int = 0,
    evaluate_every: int = 5000,
    n_evaluated: int | None = 2048,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> FormationRun:
    """Train the model, with some of its activations clamped, and follow what forms.

    Every batch is a function of seed and step, so a run that was stopped goes on from its
    checkpoint to the same weights, bit for bit. Minutes on one core at the paper's sizes.

    Args:
        clamps: any composition of "previous_token", "layer1", "match", "copy", "one_head" and
            values such as ``PatternClamp(0, 2)``; none trains all heads.
        n_sequences: how many the model sees; the last batch is a whole one.
        seed: of the initial weights and the batches.
        task, shape: what sequences are made of, and the model's sizes; ``None`` means the paper's.
        learning_rate, batch_size: of Adam.
        head: of layer 1 (the paper's layer 2), which "match", "copy" and "one_head" speak of.
        previous_head: of layer 0, which "previous_token" speaks of.
        evaluate_every: sequences between points; the start and the end are points, too.
        n_evaluated: sequences of each set that points are measured on, drawn by the task's seed;
            ``None`` means all of them: 78,400 in training, which takes longer than training does.
        checkpoint: file to which each point is written, and from which training goes on.
        progress: whether to show a progress bar with the time left.

    Raises:
        TaskError: if an argument is out of range, or the clamps do not fit the model.
        ResultError: if the checkpoint is another training's, or cannot be written.
        NumericalError: if the loss is not a number.
    """
    config = FormationConfig(
        clamps, n_sequences, seed, task or FormationTask(), shape or FormationShape(),
        learning_rate, batch_size, head, previous_head, evaluate_every, n_evaluated,
    )  # fmt: skip
    with _bar([config], progress=progress) as bar:
        return run(config, checkpoint, bar.update)


@checked(TaskError, clamps=anything, n_sequences=whole(1, MOST))
def study(
    clamps: Mapping[str, Clamps] = PAPER_CLAMPS,
    seeds: Sequence[int] = (0,),
    n_sequences: int = 1_000_000,
    *,
    task: FormationTask | None = None,
    shape: FormationShape | None = None,
    learning_rate: float = 1e-5,
    batch_size: int = 32,
    head: int = 0,
    previous_head: int = 0,
    evaluate_every: int = 5000,
    n_evaluated: int | None = 2048,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> FormationStudy:
    """Train under several clamps side by side: by default the six of Singh et al., figure 5b.

    Args:
        clamps: what each run clamps, by label.
        seeds: each label is trained with each.
        checkpoint: directory for a checkpoint of each run; what is done is not done again.
        progress: whether to show one progress bar over all runs, with the time left.
        n_sequences, task, shape, learning_rate, batch_size: of every run, as `train` says.
        head, previous_head, evaluate_every, n_evaluated: of every run, too.

    Raises:
        TaskError, ResultError, NumericalError: as `train` does.
    """
    labels = _check_labels(clamps)
    configs = {
        (label, seed): FormationConfig(
            of, n_sequences, seed, task or FormationTask(), shape or FormationShape(),
            learning_rate, batch_size, head, previous_head, evaluate_every, n_evaluated,
        )
        for label, of in labels.items()
        for seed in seeds
    }  # fmt: skip
    places = _places(configs, checkpoint)
    with _bar(configs.values(), progress=progress) as bar:
        found = {}
        for (label, seed), config in configs.items():
            bar.set_postfix_str(f"{label}, seed {seed}")
            found[label, seed] = run(config, places[label, seed], bar.update)
    runs = {label: [found[label, seed] for seed in seeds] for label in labels}
    return FormationStudy.of(runs, seeds)


def _bar(configs: Collection[FormationConfig], *, progress: bool) -> Any:
    """A bar over the sequences of some runs."""
    total = sum(config.points[-1] * config.batch_size for config in configs)
    return tqdm(total=total, unit="seq", unit_scale=True, desc="formation", disable=not progress)


def _check_labels(clamps: Any) -> Mapping[str, Clamps]:
    """What is trained, by label."""
    expected = "clamps by label, such as {'none': (), 'match': ('match', 'one_head')}, at least one"
    if not isinstance(clamps, Mapping) or not clamps:
        refuse("clamps", clamps, expected, TaskError)
    return {check_text("a label of clamps", key, error=TaskError): clamps[key] for key in clamps}


def _places(
    names: Collection[tuple[str, int]], checkpoint: str | Path | None
) -> Mapping[tuple[str, int], Path | None]:
    """The file of each run's checkpoint, by label and seed."""
    if checkpoint is None:
        return dict.fromkeys(names)
    directory = as_path(checkpoint, "checkpoint")
    found = {
        (label, seed): directory / f"{re.sub(r'[^a-zA-Z0-9]+', '_', label)}_seed_{seed}"
        for label, seed in names
    }
    if len({str(path).lower() for path in found.values()}) < len(found):
        labels = list(dict.fromkeys(label for label, _ in names))
        refuse("clamps", labels, "labels that differ in more than punctuation", TaskError)
    return found
