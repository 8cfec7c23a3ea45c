"""How cells are read: for each kind of readout that a metric may name, who reads it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from icl_locate.engine.bare_labels import (
    check_bare_labels,
    score_bare_labels,
    score_bare_labels_many,
)
from icl_locate.engine.decoding import check_generation, generate
from icl_locate.engine.first_token import (
    check_first_tokens,
    read_first_tokens,
    read_first_tokens_many,
)
from icl_locate.engine.labels import score_labels, score_labels_many
from icl_locate.engine.progress import Tell, part
from icl_locate.engine.scoring import score_targets
from icl_locate.engine.shared.decoding import generate_many
from icl_locate.engine.shared.scoring import can_drop, score_many
from icl_locate.errors import TaskError
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import (
    Answers,
    BareLabels,
    CalibratedLabels,
    GeneratedText,
    LabelLogProbs,
    Metric,
    NextToken,
    Readout,
    TargetLogProb,
    readout_of,
)
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts


@dataclass(frozen=True)
class Run:
    """A run whose outcome is read.

    Attributes:
        batch_size: prompts that run at once, where runs are hooked one by one.
        tell: told how much is done, where all runs go up the layers at once.
    """

    model: Model
    prompts: Prompts
    max_new_tokens: int
    batch_size: int = 64
    tell: Tell = lambda share: None  # noqa: ARG005


@dataclass(frozen=True)
class Reader:
    """Who reads one kind of readout: an answer for each prompt.

    Attributes:
        hooked: takes the readout, a run, and the intervention that acts in it.
        shared: takes the readout, a run, and interventions; gives answers under each.
        check: refuses prompts of which it could say nothing; asked before anything runs.
    """

    hooked: Callable[[Any, Run, Intervention | None], Answers]
    shared: Callable[[Any, Run, Sequence[Intervention]], Sequence[Answers]]
    check: Callable[[Any, Run, Metric], None] = lambda readout, run, metric: None  # noqa: ARG005


def check_readable(run: Run, metric: Metric) -> None:
    """Refuse prompts on which a metric's readout could say nothing.

    Raises:
        PromptError, TaskError: as the readout's own check says.
    """
    readout = readout_of(metric)
    _reader_of(readout).check(readout, run, metric)


def read(run: Run, readout: Readout, mask: Intervention | None) -> Answers:
    """What is read off a run under an intervention, by hooked runs."""
    readout.require()
    return _reader_of(readout).hooked(readout, run, mask)


def read_many(run: Run, readout: Readout, runs: Sequence[Intervention]) -> Sequence[Answers]:
    """What is read off a run under each intervention, by the shared engine."""
    readout.require()
    return _reader_of(readout).shared(readout, run, runs)


def _texts(readout: GeneratedText, run: Run, mask: Intervention | None) -> Answers:  # noqa: ARG001
    return generate(run.model, run.prompts, mask, run.max_new_tokens, batch_size=run.batch_size)


def _texts_many(
    readout: GeneratedText,  # noqa: ARG001
    run: Run,
    runs: Sequence[Intervention],
) -> Sequence[Answers]:
    return generate_many(
        run.model, run.prompts, runs, run.max_new_tokens, drop=can_drop(run.model), tell=run.tell
    )


def _log_probs(readout: TargetLogProb, run: Run, mask: Intervention | None) -> Answers:  # noqa: ARG001
    found = score_targets(run.model, run.prompts, mask, batch_size=run.batch_size)
    return [float(value) for value in found]


def _log_probs_many(
    readout: TargetLogProb,  # noqa: ARG001
    run: Run,
    runs: Sequence[Intervention],
) -> Sequence[Answers]:
    found = score_many(run.model, run.prompts, runs, drop=can_drop(run.model), tell=run.tell)
    return [[float(value) for value in row] for row in found]


def _labels(readout: LabelLogProbs, run: Run, mask: Intervention | None) -> Answers:
    scores = score_labels(run.model, run.prompts, readout.labels, mask, batch_size=run.batch_size)
    return readout.choose(scores.tolist(), run.prompts.texts)


def _labels_many(
    readout: LabelLogProbs, run: Run, runs: Sequence[Intervention]
) -> Sequence[Answers]:
    scores = score_labels_many(
        run.model, run.prompts, runs, readout.labels, drop=can_drop(run.model), tell=run.tell
    )
    return [readout.choose(some, run.prompts.texts) for some in scores.tolist()]


def _calibrated(readout: CalibratedLabels, run: Run, mask: Intervention | None) -> Answers:
    _check_content_free(readout, run)
    own, *free = [
        score_labels(run.model, form, readout.labels, mask, batch_size=run.batch_size).tolist()
        for form in run.prompts.forms
    ]
    return readout.choose_both(own, free, run.prompts.texts)


def _calibrated_many(
    readout: CalibratedLabels, run: Run, runs: Sequence[Intervention]
) -> Sequence[Answers]:
    _check_content_free(readout, run)
    forms = run.prompts.forms
    own, *free = [
        score_labels_many(
            run.model, form, runs, readout.labels, drop=can_drop(run.model),
            tell=part(run.tell, i / len(forms), (i + 1) / len(forms)),
        ).tolist()
        for i, form in enumerate(forms)
    ]  # fmt: skip
    return [
        readout.choose_both(some, [rows[i] for rows in free], run.prompts.texts)
        for i, some in enumerate(own)
    ]


def _bare_labels(readout: BareLabels, run: Run, mask: Intervention | None) -> Answers:
    scores = score_bare_labels(readout, run.model, run.prompts, mask, batch_size=run.batch_size)
    return readout.choose(scores.tolist(), run.prompts.texts)


def _bare_labels_many(
    readout: BareLabels, run: Run, runs: Sequence[Intervention]
) -> Sequence[Answers]:
    scores = score_bare_labels_many(
        readout, run.model, run.prompts, runs, drop=can_drop(run.model), tell=run.tell
    )
    return [readout.choose(some, run.prompts.texts) for some in scores.tolist()]


def _first_tokens(readout: NextToken, run: Run, mask: Intervention | None) -> Answers:
    found = read_first_tokens(readout, run.model, run.prompts, mask, batch_size=run.batch_size)
    return [float(value) for value in found]


def _first_tokens_many(
    readout: NextToken, run: Run, runs: Sequence[Intervention]
) -> Sequence[Answers]:
    found = read_first_tokens_many(
        readout, run.model, run.prompts, runs, drop=can_drop(run.model), tell=run.tell
    )
    return [[float(value) for value in row] for row in found]


def _check_generation(readout: GeneratedText, run: Run, metric: Metric) -> None:  # noqa: ARG001
    check_generation(run.model, run.prompts, metric, run.max_new_tokens)


def _check_content_free(
    readout: CalibratedLabels,
    run: Run,
    metric: Metric | None = None,  # noqa: ARG001
) -> None:
    """Refuse prompts that are not there with each content-free input.

    Raises:
        TaskError: saying who builds them so.
    """
    n_forms = len(run.prompts.content_free)
    if n_forms != len(readout.content_free):
        raise TaskError(
            f"label probabilities are calibrated by {len(readout.content_free)} content-free "
            f"inputs, but the prompts are there with {n_forms}: let icl_locate.sweep or "
            "studies.Setting.prompts build them, with this metric"
        )


def _check_bare_labels(readout: BareLabels, run: Run, metric: Metric) -> None:  # noqa: ARG001
    check_bare_labels(readout, run.model)


def _check_first_tokens(readout: NextToken, run: Run, metric: Metric) -> None:  # noqa: ARG001
    check_first_tokens(readout, run.model, run.prompts)


READERS: dict[type[Readout], Reader] = {
    GeneratedText: Reader(_texts, _texts_many, _check_generation),
    TargetLogProb: Reader(_log_probs, _log_probs_many),
    LabelLogProbs: Reader(_labels, _labels_many),
    CalibratedLabels: Reader(_calibrated, _calibrated_many, _check_content_free),
    BareLabels: Reader(_bare_labels, _bare_labels_many, _check_bare_labels),
    NextToken: Reader(_first_tokens, _first_tokens_many, _check_first_tokens),
}


def _reader_of(readout: Readout) -> Reader:
    found = next((READERS[kind] for kind in type(readout).__mro__ if kind in READERS), None)
    if found is None:
        known = ", ".join(sorted(kind.__name__ for kind in READERS))
        raise TaskError(f"nobody reads a {type(readout).__name__}: expected one of {known}")
    return found
