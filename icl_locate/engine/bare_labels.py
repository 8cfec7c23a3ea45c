"""Labels by their last token alone, tokenised without the space before it (Cho et al., 2025)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.engine.labels import next_tokens
from icl_locate.engine.progress import Tell, silent
from icl_locate.engine.shared.scoring import score_many
from icl_locate.errors import TaskError
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import BareLabels
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts, check_tokenizer, check_vocabulary


def score_bare_labels(
    readout: BareLabels,
    model: Model,
    prompts: Prompts,
    mask: Intervention | None = None,
    *,
    batch_size: int = 32,
) -> Float[Tensor, "batch label"]:
    """The log-probability of each label's bare last token, right behind each prompt.

    Args:
        batch_size: prompts that run at once.

    Raises:
        TaskError: labels that it cannot tell apart.
        NumericalError: if the model gives NaN.
    """
    return next_tokens(model, prompts, mask, batch_size)[:, check_bare_labels(readout, model)]


def score_bare_labels_many(
    readout: BareLabels,
    model: Model,
    prompts: Prompts,
    runs: Sequence[Intervention],
    *,
    drop: bool = True,
    tell: Tell = silent,
) -> Float[Tensor, "run batch label"]:
    """`score_bare_labels` under each intervention, by the shared engine.

    Args:
        tell: told how much of the work is done.

    Raises:
        NotSharedError: if the model's blocks cannot be run on other rows.
        TaskError, NumericalError: as `score_bare_labels` does.
    """
    wanted = check_bare_labels(readout, model)
    behind = replace(prompts, target_tokens=[wanted[:1]] * len(prompts))
    rivals = torch.tensor(wanted).expand(len(prompts), -1)
    return score_many(model, behind, runs, drop=drop, rivals=rivals, tell=tell)


def check_bare_labels(readout: BareLabels, model: Model) -> list[int]:
    """Each label's bare last token.

    Raises:
        TaskError: if a label has none, or two have the same.
        PromptError: if the model has no tokenizer, or not these tokens.
    """
    tokenizer = check_tokenizer(model.tokenizer)
    rows = [tokenizer(label).input_ids for label in readout.labels]
    check_vocabulary(model, rows)
    seen: dict[int, str] = {}
    for label, row in zip(readout.labels, rows, strict=True):
        if not row:
            raise TaskError(f"the label {label!r} has no tokens: expected text")
        if row[-1] in seen:
            raise TaskError(
                f"the labels {seen[row[-1]]!r} and {label!r} end in the same token, by which "
                "bare_label_accuracy reads them: use metric='label_accuracy', or other labels"
            )
        seen[row[-1]] = label
    return [row[-1] for row in rows]
