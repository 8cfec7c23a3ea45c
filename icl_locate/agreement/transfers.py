"""Methods that take states out of prompts with examples and put them into others."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from icl_locate.agreement.method import Asked, Measurement, Method, answered
from icl_locate.checks.arguments import check_count
from icl_locate.checks.signatures import anything, whole
from icl_locate.errors import TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import choose_examples
from icl_locate.studies.setting import Setting
from icl_locate.tasks.task import Task
from icl_locate.vectors.contexts import Source
from icl_locate.vectors.controls import shuffle_labels
from icl_locate.vectors.effects import head_indirect_effects
from icl_locate.vectors.function_vector import function_vector
from icl_locate.vectors.patching import PLACES, patch_states
from icl_locate.vectors.runs import with_examples
from icl_locate.vectors.study import task_vectors

_DUMMIES, _HEADS = 2, 10
_HALF = 0.5
"""Of what the best layer does: such curves are level until they fall, and fall within layers."""
ALL_OUTPUTS = "all outputs"


def _check(model: Model, asked: Asked) -> Task:
    """A task of examples, with and without which its prompts can be built."""
    setting = asked.setting
    task = with_examples("task", setting.task)
    if setting.n_shots < 1:
        raise TaskError("n_shots is 0: expected 1 or more, from whose states vectors are made")
    for n_shots in (0, setting.n_shots):
        replace(setting, n_shots=n_shots).prompts(model, setting.seeds[0], instruction=False)
    return task


def _reported(asked: Asked) -> Task:
    """The task with a query of its own that scores are reported on: it chooses no layer."""
    task, queries = asked.setting.task, asked.setting.queries
    sources = {query.source for query in queries}
    others = (*task.test[len(queries) :], *reversed(task.train))
    found = next((example for example in others if example.source not in sources), None)
    if found is None:
        raise TaskError(
            f"all examples of the task {task.name!r} are among its {len(queries)} queries: none is "
            "left to report a vector's score on; ask for fewer queries (n_queries)"
        )
    return replace(task, test=(found,))


def _check_vector(model: Model, asked: Asked) -> None:
    _check(model, asked)
    setting, reported = asked.setting, _reported(asked)
    n_dummies = asked.own.get("n_dummies", _DUMMIES)
    Source.of(setting, (*reported.test, *setting.queries), n_dummies)


def _task_vector(model: Model, asked: Asked) -> Measurement:
    setting = asked.setting
    found = task_vectors(
        model, _reported(asked), n_queries=1, dev=setting.queries, controls=(),
        choice=setting.choice, **{"n_dummies": _DUMMIES, **asked.own}, **asked.prompting,
        **asked.running,
    )  # fmt: skip
    n = len(found.layers)
    return Measurement(
        layers=tuple(layer + 1 for layer in found.layers),
        statistics=found.statistics[: n + 1],
        result=found,
        n_prompts=answered(found.statistics, found.test_statistics),
        notes=("a seed's vectors are of one set of examples for all queries",),
    )


TASK_VECTOR = Method(
    name="task_vector",
    kind="peak",
    lowers=False,
    share=1.0,
    question="In which layer's stream does one token's state alone make the model do the task?",
    cannot_show=(
        "a task that no single token holds: without a peak it may still be done, by the states of "
        "many tokens together"
    ),
    places="layer whose stream gets the last token's state",
    check=_check_vector,
    run=_task_vector,
    options={"n_dummies": whole(1)},
)


def _check_patching(model: Model, asked: Asked) -> None:
    """Targets of every query's examples can be dealt out anew, unless another task shows its."""
    task, setting = _check(model, asked), asked.setting
    if "other" in asked.own:
        with_examples("other", asked.own["other"])
        return
    for query in setting.queries:
        shots = choose_examples(
            query, task.train, setting.n_shots, seed=setting.seeds[0], choice=str(setting.choice)
        )
        shuffle_labels(shots, "check")


def _many_positions(model: Model, asked: Asked) -> Measurement:
    setting = asked.setting
    layers = range(int(model.cfg.n_layers) - 1)
    found = patch_states(
        model, setting.task, places={ALL_OUTPUTS: PLACES[ALL_OUTPUTS]}, controls=(), layers=layers,
        n_queries=setting.n_queries, choice=setting.choice, **asked.own, **asked.prompting,
        **asked.running,
    )  # fmt: skip
    n = len(layers)
    return Measurement(
        layers=tuple(layer + 1 for layer in layers),
        statistics=torch.cat([found.statistics[:n], found.statistics[-1:]]),
        result=found,
        n_prompts=answered(found.statistics),
        notes=("states behind the last layer are read by none, and were not tried",),
    )


MANY_POSITIONS = Method(
    name="many_positions",
    kind="drop",
    lowers=False,
    share=_HALF,
    question="Behind which layer do the states of the examples' answers no longer carry the task?",
    cannot_show=(
        "what labels in any order tell as well: prompts that take the states show the same labels, "
        "dealt out anew"
    ),
    places="first layer that reads the states put in at all examples' answers",
    check=_check_patching,
    run=_many_positions,
    options={"other": anything},
)


def _check_function(model: Model, asked: Asked) -> None:
    _check(model, asked)
    n_all = int(model.cfg.n_layers) * int(model.cfg.n_heads)
    check_count("n_heads", asked.own.get("n_heads", 1), most=n_all, error=TaskError)
    setting = _effects_setting(asked)
    setting.prompts(model, setting.seeds[0], instruction=False)


def _effects_setting(asked: Asked) -> Setting:
    """The setting in which heads are chosen: by the answer's first token."""
    setting = asked.setting
    return Setting.of(
        setting.task, metric="first_token_prob", n_queries=setting.n_queries,
        seeds=setting.seeds[0], n_shots=setting.n_shots, choice=setting.choice,
        prepend_bos=setting.prepend_bos, max_new_tokens=1,
    )  # fmt: skip


def _function_vector(model: Model, asked: Asked) -> Measurement:
    setting, own = asked.setting, dict(asked.own)
    n_heads = own.pop("n_heads", min(_HEADS, int(model.cfg.n_layers) * int(model.cfg.n_heads)))
    effects = head_indirect_effects(
        model, setting.task, n_prompts=setting.n_queries, n_shots=setting.n_shots,
        seed=setting.seeds[0], context="none", choice=setting.choice,
        prepend_bos=setting.prepend_bos, **own, **asked.running,
    )  # fmt: skip
    vector = function_vector(model, effects, n_heads=n_heads)
    found = vector.score(
        model, setting.task, n_queries=setting.n_queries, **asked.prompting, **asked.running
    )
    n = len(found.layers)
    return Measurement(
        layers=found.layers,
        statistics=torch.cat([found.statistics[:n], found.statistics[-1:]]),
        result=found,
        n_prompts=answered(found.statistics, effects.statistics) + _tried(effects.provenance),
        notes=(
            f"the vector is what {n_heads} heads write, chosen by the first token's probability on "
            "the same queries",
        ),
        others={"head_indirect_effects": effects, "function_vector": vector},
    )


def _tried(recipe: Mapping[str, Any]) -> int:
    return int(recipe["n_tried"])


FUNCTION_VECTOR = Method(
    name="function_vector",
    kind="drop",
    lowers=False,
    share=_HALF,
    question="Behind which layer does adding what the best heads write no longer do the task?",
    cannot_show=(
        "where the heads stand that write it: what is added early is carried up to the layer that "
        "reads it; and nothing of a vector that speaks to the unembedding itself, which never ends"
    ),
    places="layer behind which the function vector is added",
    check=_check_function,
    run=_function_vector,
    options={"n_heads": whole(1), "n_mean": whole(1)},
)
