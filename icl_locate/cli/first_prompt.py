"""The first prompt of a run, printed before anything is scored, so that a wrong layout is seen."""

import os
import sys
from collections.abc import Sequence
from typing import Any

_COLOURS = {"INSTRUCTIONS": "33", "EXAMPLES": "36", "QUERY": "32", "GENERATED": "35"}
_HEAD, _TAIL = 30, 12  # lines of a long prompt that are printed


def print_first_prompt(
    task: Any, *, n_shots: int, instruction: bool, seed: int = 0, choice: str | None = None
) -> None:
    """Print the prompt of a task's first query by segment, and the answer that is wanted.

    On a terminal segments are coloured, unless NO_COLOR is set; elsewhere lines are labelled.

    Raises:
        PromptError: if there are fewer examples than shots.
    """
    from icl_locate.prompts.template import choose_examples

    query = task.test[0]
    shots = choose_examples(query, task.train, n_shots, seed=seed, choice=choice or task.choice)
    template = task.template_for(instruction=instruction)
    spans = [(span.segment.name, span.text) for span in template.render(shots, query.source)]
    wanted = ("GENERATED", template.answer(query.target))
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    number = f"{n_shots} shot{'' if n_shots == 1 else 's'}"
    print(f"first prompt, {number}, seed {seed}{_legend(spans) if coloured else ''}:\n")
    lines = (_coloured if coloured else _labelled)([*spans, wanted])
    if len(lines) > _HEAD + _TAIL + 1:
        left_out = len(lines) - _HEAD - _TAIL
        lines = [*lines[:_HEAD], f"... ({left_out} lines)", *lines[-_TAIL:]]
    print("\n".join(lines), end="\n\n", flush=True)


def _legend(spans: Sequence[tuple[str, str]]) -> str:
    names = dict.fromkeys(name for name, _ in spans)
    shown = [_paint(name.lower(), name) for name in names]
    return f" ({', '.join(shown)}; {_paint('wanted', 'GENERATED')})"


def _labelled(spans: Sequence[tuple[str, str]]) -> list[str]:
    """Each line of each segment behind the segment's name."""
    lines: list[tuple[str, str]] = []
    for name, text in _joined(spans):
        label = "wanted" if name == "GENERATED" else name.lower()
        pieces = text.removesuffix("\n").split("\n")
        lines += [(label, piece) for piece in pieces]
    width = max(len(label) for label, _ in lines)
    return [f"{label:<{width}} | {piece}".rstrip() for label, piece in lines]


def _coloured(spans: Sequence[tuple[str, str]]) -> list[str]:
    """The text as it stands, line by line, each stretch of a segment in its colour."""
    stretches = [
        "\n".join(_paint(piece, name) for piece in text.split("\n"))
        for name, text in _joined(spans)
    ]
    return "".join(stretches).split("\n")


def _joined(spans: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one segment as one, and nothing that a terminal would take for an order."""
    joined: list[tuple[str, str]] = []
    for name, text in spans:
        safe = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
        if joined and joined[-1][0] == name:
            joined[-1] = name, joined[-1][1] + safe
        else:
            joined.append((name, safe))
    return joined


def _paint(text: str, name: str) -> str:
    return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m" if text else text
