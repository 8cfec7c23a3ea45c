"""Methods of the inference circuit: edges to labels cut layer by layer, and what states tell."""

from dataclasses import replace
from typing import Any

import torch

from icl_locate.agreement.method import Asked, Measurement, Method, answered
from icl_locate.checks.signatures import one_of, whole
from icl_locate.circuit.alignment import kernel_alignment
from icl_locate.circuit.cuts import disconnect
from icl_locate.circuit.inputs import CircuitSetting
from icl_locate.circuit.probe import centroid_probe
from icl_locate.circuit.result import LayerMeasure
from icl_locate.errors import TaskError
from icl_locate.metrics import generates, readout_of
from icl_locate.models.bridge import Model

EDGE = "y->s_q"
"""From the query's last token to the labels of the examples: the circuit's last step."""


def _prompting(asked: Asked) -> dict[str, Any]:
    """How prompts are built, as keywords; each class has to stand among the examples."""
    setting = asked.setting
    return {
        "n_shots": setting.n_shots,
        "n_queries": setting.n_queries,
        "seeds": setting.seeds,
        "choice": None if setting.choice == "random" else setting.choice,
        "prepend_bos": setting.prepend_bos,
    }


def _notes(asked: Asked) -> dict[str, Any]:
    """What the examples are, where they are not those of the other methods."""
    if asked.setting.choice != "random":
        return {}
    said = "examples are balanced over the classes, the other methods' drawn at random"
    return {"notes": (said,), "draws": "balanced examples"}


def _check(model: Model, asked: Asked, *, classes: bool = True) -> None:
    """A task of classes whose labels have forerunner tokens."""
    setting = asked.setting
    circuit = CircuitSetting.of(setting.task, setting.metric, classes=classes, **_prompting(asked))
    for seed in setting.seeds:
        circuit.inputs(model, seed)


def _check_cuts(model: Model, asked: Asked) -> None:
    metric = asked.setting.metric
    if generates(metric):
        raise TaskError(
            f"the metric {metric.name!r} scores generated answers: disconnections are scored by "
            "log-probabilities, such as label_accuracy or log_prob"
        )
    _check(model, asked, classes=readout_of(metric).gives_text)


def _disconnections(model: Model, asked: Asked) -> Measurement:
    """The edges are cut from each layer on, so that no other layer stands in for one."""
    metric: Any = asked.setting.task.metric if asked.metric is None else asked.metric
    n_layers = int(model.cfg.n_layers)
    found = disconnect(
        model, asked.setting.task, edges=EDGE, windows=[(at, n_layers) for at in range(n_layers)],
        controls=0, metric=metric, **_prompting(asked), **asked.running,
    )  # fmt: skip
    table = torch.cat([found.statistics, found.statistics[-1:]])  # the ceiling ends the curve, too
    layers = tuple(range(n_layers + 1))
    return Measurement(layers, table, found, answered(found.statistics), **_notes(asked))


DISCONNECTIONS = Method(
    name="disconnections",
    kind="plateau",
    lowers=True,
    share=0.9,
    question="From which layer on need the query's last token no longer look at the labels?",
    cannot_show=(
        "routes past the labels: what else carries the task, such as tokens that have collected "
        "the labels below"
    ),
    places="layer from which the query's last token does not see the labels",
    check=_check_cuts,
    run=_disconnections,
)


def _told(asked: Asked, found: LayerMeasure, more: int = 0) -> Measurement:
    """The first arm of what states tell; its reference is chance, which does not scatter.

    Args:
        more: prompts that ran under each seed beside the queries'.
    """
    table = found.statistics[0]
    chance = torch.ones_like(table[:1])
    chance[..., 0] = float(found.chance[0, 0])
    table = torch.cat([table, chance])
    n_prompts = len(found.seeds) * (table.shape[2] + more)
    return Measurement(found.layers, table, found, n_prompts, **_notes(asked))


def _kernel_alignment(model: Model, asked: Asked) -> Measurement:
    found = kernel_alignment(
        model, asked.setting.task, batch_size=asked.batch_size, progress=asked.progress,
        **asked.own, **_prompting(asked),
    )  # fmt: skip
    return _told(asked, found)


def _probe(model: Model, asked: Asked) -> Measurement:
    found = centroid_probe(
        model, asked.setting.task, batch_size=asked.batch_size, progress=asked.progress,
        **asked.own, **_prompting(asked),
    )  # fmt: skip
    return _told(asked, found, int(found.provenance["n_calibration"]))


KERNEL_ALIGNMENT = Method(
    name="kernel_alignment",
    kind="rise",
    lowers=False,
    share=0.9,
    question="From which layer's stream on do queries of a class lie near each other?",
    cannot_show=(
        "whether the model uses it: states may tell the class apart before, or without, any "
        "example being read"
    ),
    places="layer whose stream is compared, at the last token before the answer",
    check=_check,
    run=_kernel_alignment,
    options={"k": whole(1), "at": one_of("x", "s")},
)

PROBE = replace(
    KERNEL_ALIGNMENT,
    name="probe",
    question="From which layer's stream on is the class read off the state before the answer?",
    places="layer whose stream is read, at the last token before the answer",
    run=_probe,
    options={"n_calibration": whole(1)},
)
