"""The method that trains: an adapter on each layer by itself."""

from typing import Any

import torch

from icl_locate.agreement.method import Asked, Measurement, Method, answered
from icl_locate.errors import TaskError
from icl_locate.lora.study import lora_by_layer, prepare
from icl_locate.metrics import generates
from icl_locate.models.bridge import Model
from icl_locate.records.files import check_output

_HINT = "such as lora={'output': 'runs/lora', 'config': LoraConfig(...)}"


def _options(asked: Asked) -> dict[str, Any]:
    """The keywords of `lora_by_layer` that are its own, the model's name among them."""
    own = {"model": asked.named, **asked.own}
    if "output" not in own:
        raise TaskError(f"lora trains an adapter a layer: say where they go, {_HINT}")
    if own["model"] is None:
        raise TaskError(
            "lora loads the model anew: give triangulate its name or directory, or lora={'model': "
            "...} ('embedded' for the embedded one)"
        )
    return own


def _metric(asked: Asked) -> Any:
    """What adapters are scored by: their answers are generated."""
    return asked.metric if generates(asked.setting.metric) else "exact_match"


def _check(model: Model, asked: Asked) -> None:  # noqa: ARG001
    own, setting = _options(asked), asked.setting
    check_output(own["output"])
    prepare(
        setting.task, own.get("config"), metric=_metric(asked), n_queries=setting.n_queries,
        seeds=setting.seeds, max_new_tokens=setting.max_new_tokens,
    )  # fmt: skip


def _run(model: Model, asked: Asked) -> Measurement:  # noqa: ARG001
    setting, own = asked.setting, _options(asked)
    found = lora_by_layer(
        own.pop("model"), setting.task, metric=_metric(asked), n_queries=setting.n_queries,
        seeds=setting.seeds, max_new_tokens=setting.max_new_tokens, progress=asked.progress, **own,
    )  # fmt: skip
    untuned = found.untuned_statistics
    if untuned is None:
        raise TaskError("adapters without statistics of the untuned model: tune them again")
    table = found.statistics
    beside = untuned[None, None].expand(1, *table.shape[1:])
    return Measurement(
        layers=found.layers,
        statistics=torch.cat([table, beside]),
        result=found,
        n_prompts=answered(table, untuned),
        notes=(
            "a seed initialises an adapter and orders its pairs: other chance than the other "
            "methods' seeds",
            "prompts of the training are not counted",
            *("what adapters generate is scored",) * (not generates(setting.metric)),
        ),
    )


LORA = Method(
    name="lora",
    kind="drop",
    lowers=False,
    share=0.9,
    question="Behind which layer does tuning one layer no longer teach the task as well as it can?",
    cannot_show=(
        "where the untuned model does the task: a layer can learn what it never did, and "
        "training may stop short"
    ),
    places="layer that is tuned",
    check=_check,
    run=_run,
    options=("model", "output", "config", "device", "dtype", "revision"),
    by_name=True,
)
