"""Names of answers: digests of everything that determines them, and of nothing else.

An answer is determined by its context (weights, config, tokenizer, what is read off a run, the
engine), by its cell (what is done to the model) and by its item (the prompt). Equal names mean
equal answers, up to the last bits of arithmetic, whoever computed them; so what a name leaves out
may change without a word: the metric, which looks at answers later, how many prompts ran at once,
versions and hardware.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from icl_locate.errors import TaskError
from icl_locate.hooks.registry import application_of, is_ours
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import Readout
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import fingerprint
from icl_locate.models.identity import describe_config, describe_words
from icl_locate.prompts.tokens import Prompts
from icl_locate.studies.recipe import describe_interventions, describe_value

_ORIGINS = ("provenance", "origin")
_ROWS = ("tokens", "segments", "parts", "shots", "words")


def describe_context(
    model: Model, readout: Readout, engine: str, max_new_tokens: int
) -> dict[str, Any]:
    """What all answers of a call have in common.

    Raises:
        TaskError: if the readout does not say what it is.
    """
    said = describe_value(readout)
    check_named("the metric's readout", said)
    words = readout.gives_text  # of numbers nothing is spelled
    return {
        **describe_computing(model),
        "tokenizer": describe_words(model.original_model, model.tokenizer) if words else None,
        "readout": said,
        "engine": engine,
        "max_new_tokens": max_new_tokens if readout.generates else None,
    }


def describe_computing(model: Model) -> dict[str, Any]:
    """What determines a model's numbers: its weights, and what its config makes of them."""
    return {
        "fingerprint": fingerprint(model),
        "config": describe_config(model.original_model),
    }


def name_of(said: Any) -> str:
    """The name of what a description says, as JSON: 32 hexadecimal digits."""
    text = json.dumps(said, sort_keys=True, allow_nan=False)
    return sha256(text.encode()).hexdigest()[:32]


def name_items(prompts: Prompts) -> list[str]:
    """A name for each prompt, whatever stands beside it in the batch."""
    layouts = [describe_value(form.template) for form in prompts.forms]
    return [
        name_of([_row(form, i, said) for form, said in zip(prompts.forms, layouts, strict=True)])
        for i in range(len(prompts))
    ]


def _row(prompts: Prompts, item: int, layout: Any) -> dict[str, Any]:
    """A prompt without its padding."""
    real = prompts.attention_mask[item].cpu()
    columns = {
        name: sha256(getattr(prompts, name)[item].cpu()[real].numpy().tobytes()).hexdigest()
        for name in _ROWS
    }
    return {
        **columns,
        "text": prompts.texts[item],  # draws go by it
        "target": prompts.target_tokens[item],
        "template": layout,
        "as_text": prompts.as_text,
    }


def name_cells(runs: Sequence[Intervention]) -> list[str]:
    """A name for what each run does to the model.

    Raises:
        TaskError: if one holds what does not say what it is.
    """
    said = [[_essence(part) for part in parts] for parts in describe_interventions(runs)]
    acts = [[describe_value(act) for act in _applications(run)] for run in runs]
    for i, parts in enumerate(said):
        check_named(f"runs[{i}]", parts)
        check_named(f"what applies runs[{i}]", acts[i])
    return [name_of(each) for each in zip(said, acts, strict=True)]


def _applications(run: Intervention) -> list[Any]:
    """What puts parts of kinds of one's own on a model: it may change while they do not."""
    acts = {application_of(part): None for part in run.parts if not is_ours(part)}
    return sorted(acts, key=lambda act: json.dumps(describe_value(act), sort_keys=True))


def is_by_prompt(run: Intervention) -> bool:
    """Whether an intervention holds something for each prompt."""
    return any(part.take([0]) is not part for part in run.parts)


def _essence(said: Any) -> Any:
    """A description without where its values came from: the values stand there themselves."""
    if isinstance(said, Mapping):
        left_out = _ORIGINS if "kind" in said else ()
        kept = {key: value for key, value in said.items() if key not in left_out}
        return {key: _essence(value) for key, value in kept.items()}
    return [_essence(one) for one in said] if isinstance(said, list) else said


def check_named(name: str, said: Any) -> None:
    """Refuse what would be called the same as another of its class."""
    if isinstance(said, Mapping):
        if "says" in said and said["says"] is None:
            raise TaskError(
                f"{name} holds a {said.get('kind')}, which does not say what it does, so that its "
                "answers would be taken for another's: make its class a frozen dataclass, or call "
                "without store"
            )
        said = list(said.values())
    for one in said if isinstance(said, list) else ():
        check_named(name, one)
