"""What every page has: a frame that opens from disk, a finding first, its recipe last."""

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from icl_locate import __version__
from icl_locate.records.files import replace_file
from icl_locate.report.figures import FIGURE
from icl_locate.report.recipe import METHOD, Paper, html_citation, html_recipe
from icl_locate.report.tables import html_list

_SCRIPTS = ("figures.js", "difference.js", "reader.js", "answers.js", "page.js")


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: a plain text.
        body: HTML, in which every text from outside is escaped.
        name: what links to it say; of letters, once a page. ``None`` numbers it.
    """

    heading: str
    body: str
    name: str | None = None


def write_page(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    provenance: Mapping[str, Any],
    *,
    finding: Sequence[str],
    papers: Sequence[Paper] = (METHOD,),
) -> Path:
    """Write a page that needs nothing else: it loads nothing, and runs no script but its own.

    A policy in the page itself names the scripts that may run by their digests, and forbids all
    that comes from elsewhere; so a text that was not escaped would still do nothing.

    Args:
        sections: what stands between the finding and the recipe; empty ones are left out.
        provenance: where the numbers come from.
        finding: plain sentences, the one that matters most first.
        papers: to cite.
    """
    shown = [
        *(section for section in sections if section.body),
        Section("Where the numbers come from", html_recipe(provenance), "recipe"),
        Section("How to cite", html_citation(papers), "cite"),
    ]
    named = {section.name or f"part-{i}": section for i, section in enumerate(shown, start=1)}
    body = "\n".join(_html_section(name, section) for name, section in named.items())
    plotly = _plotly() if FIGURE in body else ""
    links = "".join(
        f'<li><a href="#{name}">{html.escape(section.heading)}</a></li>'
        for name, section in named.items()
    )
    lead, *more = finding
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_policy([_script(), plotly])}">
<meta name="generator" content="icl_locate {__version__}">
<title>{html.escape(title)}</title>
<style>{_asset("page.css")}</style></head><body>
<a class="skip" href="#finding">Skip to the finding</a>
<header><h1>{html.escape(title)}</h1>
<nav aria-label="On this page"><ul>{links}</ul></nav></header>
<main>
<section id="finding" aria-labelledby="finding-heading">
<h2 id="finding-heading">What was found</h2>
<p class="lead">{html.escape(lead)}</p>
{html_list(more)}
</section>
<noscript><p>Figures and answers are drawn by a script, which this browser does not run: the tables
hold the figures' numbers.</p></noscript>
{body}
</main>
<script type="text/plain" id="plotly">{plotly}</script>
<script type="module">{_script()}</script>
</body></html>
"""
    return replace_file(path, [page.encode(errors="backslashreplace")])


def _html_section(name: str, section: Section) -> str:
    return f"""<section id="{name}" aria-labelledby="{name}-heading">
<h2 id="{name}-heading">{html.escape(section.heading)}</h2>
{section.body}
</section>"""


def _policy(scripts: Sequence[str]) -> str:
    """What a browser may do for the page."""
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    return (files("icl_locate.report") / "assets" / name).read_text("utf-8")


def _script() -> str:
    return "\n".join(map(_asset, _SCRIPTS))


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def write_png(figure: go.Figure, path: Path, *, width: int = 1000, height: int = 600) -> str | None:
    """Write a figure as PNG; returns ``None``, or why it could not be written.

    kaleido draws it with a Chrome or Chromium that must be on the machine.
    """
    import kaleido.errors

    from icl_locate.models.loading import first_line

    try:
        image = figure.to_image("png", width=width, height=height, scale=2)
    except (RuntimeError, OSError, ValueError, kaleido.errors.KaleidoError) as error:
        return first_line(error)
    replace_file(path, [image])
    return None
