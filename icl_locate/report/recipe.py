"""Where a page's numbers come from, as a table that people read; and what to cite."""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icl_locate import __version__

_LONGEST = 300


@dataclass(frozen=True)
class Paper:
    """A publication whose method a page shows."""

    key: str
    authors: str
    year: int
    title: str
    venue: str

    @property
    def line(self) -> str:
        """It in a line."""
        return f"{self.authors} ({self.year}). {self.title} {self.venue}."

    @property
    def bibtex(self) -> str:
        """It for LaTeX."""
        return (
            f"@inproceedings{{{self.key},\n  author = {{{self.authors.replace(', ', ' and ')}}},\n"
            f"  title = {{{self.title}}},\n  booktitle = {{{self.venue}}},\n"
            f"  year = {{{self.year}}}\n}}"
        )


METHOD = Paper(
    "sia2024where", "Suzanna Sia, David Mueller, Kevin Duh", 2024,
    "Where does In-context Learning Happen in Large Language Models?",
    "Advances in Neural Information Processing Systems (NeurIPS 2024)",
)  # fmt: skip
INDUCTION = Paper(
    "crosbie2024induction", "Joy Crosbie, Ekaterina Shutova", 2024,
    "Induction Heads as an Essential Mechanism for Pattern Matching in In-context Learning.",
    "arXiv:2407.07011",
)  # fmt: skip
CIRCUIT = Paper(
    "cho2025revisiting",
    "Hakaze Cho, Mariko Kato, Yoshihiro Sakai, Naoya Inoue", 2025,
    "Revisiting In-context Learning Inference Circuit in Large Language Models.",
    "International Conference on Learning Representations (ICLR 2025)",
)  # fmt: skip
FORMATION = Paper(
    "singh2024what", "Aaditya K. Singh, Ted Moskovitz, Felix Hill, Stephanie C. Y. Chan, "
    "Andrew M. Saxe", 2024,
    "What needs to go right for an induction head? A mechanistic study of in-context learning "
    "circuits and their formation.",
    "International Conference on Machine Learning (ICML 2024)",
)  # fmt: skip
TASK_VECTORS = Paper(
    "hendel2023task", "Roee Hendel, Mor Geva, Amir Globerson", 2023,
    "In-Context Learning Creates Task Vectors.", "Findings of EMNLP 2023",
)  # fmt: skip
FUNCTION_VECTORS = Paper(
    "todd2024function", "Eric Todd, Millicent L. Li, Arnab Sen Sharma, Aaron Mueller, "
    "Byron C. Wallace, David Bau", 2024,
    "Function Vectors in Large Language Models.",
    "International Conference on Learning Representations (ICLR 2024)",
)  # fmt: skip
IN_CONTEXT_VECTORS = Paper(
    "liu2024vectors", "Sheng Liu, Haotian Ye, Lei Xing, James Zou", 2024,
    "In-context Vectors: Making In Context Learning More Effective and Controllable Through "
    "Latent Space Steering.",
    "International Conference on Machine Learning (ICML 2024)",
)  # fmt: skip


def html_citation(papers: Sequence[Paper]) -> str:
    """The method's papers and the program, for a text and for LaTeX."""
    own = f"icl_locate, version {__version__}: find where in a language model in-context learning"
    lines = [*(paper.line for paper in papers), f"{own} happens (software)."]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    software = (
        "@software{icl_locate,\n  title = {icl_locate: find where in a language model in-context "
        f"learning happens}},\n  version = {{{__version__}}}\n}}"
    )
    bibtex = "\n\n".join([*(paper.bibtex for paper in papers), software])
    return (
        f"<p>The method, and the program that ran it:</p><ul>{items}</ul>"
        f"<details><summary>BibTeX</summary><pre>{html.escape(bibtex)}</pre></details>"
    )


def html_recipe(provenance: Mapping[str, Any]) -> str:
    """A row for each thing that is recorded, and all of it as JSON to be copied.

    Recipes of several results, by a name for each, stand side by side; what differs comes first.
    """
    several = len(provenance) > 1 and all(map(_is_recipe, provenance.values()))
    recipes = provenance if several else {"value": provenance}
    columns = {name: dict(_flat(recipe)) for name, recipe in recipes.items()}
    rows = dict.fromkeys(name for column in columns.values() for name in column)
    cells = {name: [column.get(name, "") for column in columns.values()] for name in rows}
    ordered = sorted(cells, key=lambda name: len({*cells[name]}) == 1 and several)
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("what", *columns))
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        f"{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells[name])}</tr>"
        for name in ordered
    )
    text = json.dumps(dict(provenance), indent=1, ensure_ascii=False, default=str)
    first = " What differs stands first." if several else ""
    return (
        "<p>Everything that is needed to run this again, as the result's file records it."
        f'{first}</p><div class="scroll" tabindex="0" role="region" aria-label="Recipe">'
        f'<table class="words recipe"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div><details><summary>All of it as JSON</summary>"
        f"<pre>{html.escape(text)}</pre></details>"
    )


def _is_recipe(value: Any) -> bool:
    """Whether it says of which model or task it is."""
    return isinstance(value, Mapping) and bool({"model", "task"} & {*value})


def _flat(value: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and values as text; what stands in a mapping is named after it, too."""
    for key, held in value.items():
        name = f"{above}{str(key).replace('_', ' ')}"
        if isinstance(held, Mapping) and held:
            yield from _flat(held, f"{name}: ")
        elif held not in (None, [], {}, ""):
            yield name, _say(held)


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value if value.strip() == value and "\n" not in value else json.dumps(value)
    if isinstance(value, (list, tuple)):
        found = "; ".join(str(one.get("name", one)) if isinstance(one, Mapping) else _say(one)
                          for one in value)  # fmt: skip
        return found if len(found) <= _LONGEST else f"{found[:_LONGEST]} … ({len(value)} in all)"
    return str(value)
