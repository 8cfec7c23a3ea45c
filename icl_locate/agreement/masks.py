"""Methods that hide the examples: from a layer on, or at a layer alone."""

from dataclasses import replace

import torch

from icl_locate.agreement.method import Asked, Measurement, Method, answered
from icl_locate.interventions.conditions import PAPER_CONDITIONS, Condition
from icl_locate.masking.plan import Plan, build_all, check
from icl_locate.masking.sweeps import sweep
from icl_locate.models.bridge import Model


def _condition(asked: Asked) -> Condition:
    """The examples hidden, in prompts without an instruction where there are such."""
    bare, _, instructed = PAPER_CONDITIONS[:3]
    return bare if False in asked.setting.task.instructed else instructed


def _check(model: Model, asked: Asked) -> None:
    plan = Plan(
        model=model, setting=asked.setting, conditions=(_condition(asked),), layers=None,
        scope="from", compat=None,
    )  # fmt: skip
    check(plan, str(asked.engine))
    build_all(plan)


def _sweep(model: Model, asked: Asked, scope: str) -> Measurement:
    setting, condition = asked.setting, _condition(asked)
    found = sweep(
        model, setting.task, conditions=condition, scope=scope, n_queries=setting.n_queries,
        choice=setting.choice, **asked.prompting, **asked.running,
    )  # fmt: skip
    table, layers = found.statistics[0], found.layers
    if scope == "from":  # the last start hides nothing: a layer of the curve, and the reference
        table = torch.cat([table, table[-1:]])
    else:
        layers = layers[:-1]
    notes = ("prompts hold the instruction, which is not hidden",) * condition.instruction
    return Measurement(layers, table, found, answered(found.statistics), notes)


MASKING = Method(
    name="masking",
    kind="plateau",
    lowers=True,
    share=0.9,
    question="From which layer on are the examples no longer read?",
    cannot_show=(
        "where the task is computed: layers below may have done so long before the last one that "
        "still reads the examples"
    ),
    places="layer from which the examples are hidden",
    check=_check,
    run=lambda model, asked: _sweep(model, asked, "from"),
)

SINGLE_LAYER = replace(
    MASKING,
    name="single_layer",
    kind="drop",
    share=0.1,
    question="Behind which layer does reading the examples at one layer alone no longer matter?",
    cannot_show=(
        "layers that stand in for each other: where any one of several is enough, hiding the "
        "examples from one of them does no damage"
    ),
    places="layer at which alone the examples are hidden",
    run=lambda model, asked: _sweep(model, asked, "only"),
)
