"""All answers of a sweep in a page: packed, so that a hundred thousand open as fast as ten."""

import base64
import gzip
import json
from typing import Any

from icl_locate.masking.failures import has_answers
from icl_locate.masking.result import SweepResult

_DIGITS = 6
"""Of an item's score, so that the page shows what the tables show."""

_BELOW = """
<p id="answers-keys" class="screen"><small>In the table: arrow keys, Page Up, Page Down, Home and
End move, Enter opens an item side by side over the layers, Escape closes it. A heading sorts; once
more, and the order is turned round.</small></p>"""


def html_answers(result: SweepResult) -> str:
    """A place where the page's script shows every answer (or score) to read and to filter."""
    block = base64.b64encode(gzip.compress(pack(result), compresslevel=6, mtime=0)).decode()
    n = f"{result.item_scores.numel():,}"
    written = has_answers(result)
    what = "answers" if written else "scores of single queries"
    none = "" if written else _NO_TEXTS
    return f"""<p>All {n} {what}, to be filtered, sorted and read.{none}
<span class="paper">They stand in this file, to be read on a screen.</span></p>
<div class="viewer screen"><p class="status" role="status" aria-live="polite">…</p></div>
{_BELOW}
<script type="application/octet-stream" id="answers-data">{block}</script>"""


_NO_TEXTS = " The metric is read off probabilities: the model wrote no answers."


def pack(result: SweepResult) -> bytes:
    """Answers and scores as JSON: each different text once, and where it stands.

    The order of answers is that of conditions, layers, seeds and items, the last the fastest.
    """
    places: dict[str, int] = {}
    texts = [
        places.setdefault(text, len(places))
        for by_layer in (result.texts if has_answers(result) else ())
        for by_seed in by_layer
        for items in by_seed
        for text in items
    ]
    scores = result.item_scores.flatten().tolist()
    found: dict[str, Any] = {
        "conditions": result.conditions,
        "layers": result.layers,
        "seeds": result.seeds,
        "sources": result.sources,
        "targets": result.targets,
        "strings": list(places),
        "texts": texts,
        "scores": [float(f"{score:.{_DIGITS}g}") for score in scores],
    }
    return json.dumps(found, separators=(",", ":")).encode()  # ASCII, whatever the texts hold
