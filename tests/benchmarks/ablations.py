"""An ablation study of a pattern task, by the loop of hooked runs and by the shared engine."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from floor import clean_flops, study_flops
from jaxtyping import Bool, Float
from random_llama import Shape
from rows import CLEAN, HOOKS, OURS, Row, Ways, measured
from torch import Tensor

import icl_locate as icl
from icl_locate import induction
from icl_locate.interventions.edges import InductionEdges, Positions
from icl_locate.models.bridge import Model
from icl_locate.tasks import pattern_task

TASK = pattern_task("repetition")
LABELS = tuple(dict.fromkeys(example.target for example in TASK.train))
KNOWN = (5, 5), (5, 1), (6, 9), (7, 10), (7, 2)  # of 12 layers


def study_row(model: Model, shape: Shape, asked: Mapping[str, int], **timing: Any) -> Row:
    """The whole study but for scoring heads; one seed.

    Args:
        asked: ``shots`` and ``n_queries``.
        timing: ``n_runs`` and ``clock``, as `measured` takes them.
    """
    study = partial(induction.ablation_study, model, TASK, head_scores(shape), seeds=0, **asked)
    found = study(engine="hooks")
    prompts = icl.build_prompts(
        model, TASK.test[: asked["n_queries"]], examples=TASK.train, n_shots=asked["shots"],
        template=TASK.template, choice=TASK.choice,
    )  # fmt: skip
    ways: Ways = {
        HOOKS: partial(answers, study, "hooks"),
        OURS: partial(answers, study, "shared"),
        CLEAN: partial(icl.score_labels, model, prompts, LABELS),
    }
    floor = study_flops(shape, found.arms, knocked_out(prompts))
    layers = sorted({layer for arm in found.arms for layer, _ in arm.heads})
    return measured(
        f"ablation study, {shape.n_layers} layers, d={shape.d_model}, {len(found.arms)} arms, "
        f"heads of layers {', '.join(map(str, layers))}",
        ways,
        **timing,
        clean=found.statistics[0, 0, 0, :, 0],
        passes=floor / clean_flops(shape, *prompts.tokens.shape),
    )


def head_scores(shape: Shape) -> Float[Tensor, "layer head"]:
    """Scores that put induction heads at the depth at which GPT-2 small has them.

    A random model has none anywhere, and how much of a run is the clean one depends on the layer.
    """
    scores = torch.zeros(shape.n_layers, shape.n_heads)
    for rank, (layer, head) in enumerate(KNOWN):
        scores[layer * shape.n_layers // 12, head % shape.n_heads] = 1 - 0.1 * rank
    return scores


def answers(study: Callable[..., Any], engine: str) -> Tensor:
    """Which answers were right ``[arm, prompt]``."""
    return study(engine=engine).statistics[:, 0, 0, :, 0]


def knocked_out(prompts: icl.Prompts) -> Bool[Tensor, "prompt pos"]:
    """The rows from which a knockout hides something: those of tokens that stood before."""
    positions = Positions(prompts.segments, prompts.tokens, prompts.words)
    return InductionEdges("token")(positions, prompts.tokens.shape[1]).any(dim=-1)
