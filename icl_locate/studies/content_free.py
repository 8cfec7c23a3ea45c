"""Prompts beside which the same ones stand with inputs that say nothing."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from icl_locate.errors import PromptError
from icl_locate.prompts.template import Example
from icl_locate.prompts.tokens import Prompts

Build = Callable[..., Prompts]
"""Takes queries, and the shots of each."""


def build_forms(
    build: Build,
    texts: Sequence[str],
    queries: Sequence[Example],
    shots: Sequence[Sequence[Example]],
) -> Prompts:
    """Queries' prompts, and beside them those with each text in the place of the sources.

    Each has the examples of its query, whatever stands in that one's place.

    Raises:
        PromptError: as `Task.build` does, naming the text.
    """
    prompts = build(queries=queries, shots=shots)
    forms = tuple(_with_source(build, text, queries, shots) for text in texts)
    return replace(prompts, content_free=forms)


def _with_source(
    build: Build, text: str, queries: Sequence[Example], shots: Sequence[Sequence[Example]]
) -> Prompts:
    try:
        return build(queries=[replace(query, source=text) for query in queries], shots=shots)
    except PromptError as error:
        raise PromptError(
            f"with the content-free input {text!r} as source (CalibratedLabelAccuracy takes other "
            f"texts): {error}"
        ) from error
