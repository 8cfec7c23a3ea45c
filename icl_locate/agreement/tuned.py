"""The method that trains: an adapter on each layer by itself."""

from typing import Any

import torch
from transformers import AutoConfig

from icl_locate.agreement.method import Asked, Measurement, Method, answered
from icl_locate.checks.signatures import anything
from icl_locate.errors import TaskError
from icl_locate.lora.study import lora_by_layer, prepare
from icl_locate.metrics import generates
from icl_locate.models.bridge import Model
from icl_locate.models.loading import resolve_device, resolve_dtype
from icl_locate.models.names import find_model
from icl_locate.models.trust import NO_CODE
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


def _check_alike(model: Model, named: Any, revision: Any) -> None:
    """Refuse a model of other layers than that which stands on the axis."""
    where = find_model(named, revision)
    config = AutoConfig.from_pretrained(where, revision=revision, **NO_CODE).get_text_config()
    n_layers, found = int(model.cfg.n_layers), int(config.num_hidden_layers)
    if found != n_layers:
        raise TaskError(
            f"lora's model {str(named)!r} has {found} layers, but the model has {n_layers}: give "
            "the name or directory that it came from"
        )


def _check(model: Model, asked: Asked) -> None:
    own, setting = _options(asked), asked.setting
    check_output(own["output"])
    resolve_device(own.get("device"))
    resolve_dtype(own.get("dtype", "float32"))
    prepare(
        setting.task, own.get("config"), metric=_metric(asked), n_queries=setting.n_queries,
        seeds=setting.seeds, max_new_tokens=setting.max_new_tokens,
    )  # fmt: skip
    _check_alike(model, own["model"], own.get("revision"))


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
        draws="adapters",
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
    options=dict.fromkeys(("model", "output", "config", "device", "dtype", "revision"), anything),
    by_name=True,
)
