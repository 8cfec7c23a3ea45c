"""What a sweep found, what it did and what its columns mean, in words for a newcomer."""

from collections.abc import Mapping, Sequence
from typing import Any

from icl_locate._types import Segment
from icl_locate.masking.importance import LayerImportance
from icl_locate.masking.location import Location
from icl_locate.masking.result import SweepResult
from icl_locate.plots.frame import METRIC_TITLES, metric_scale

_SEGMENTS = {
    "INSTRUCTIONS": "its instructions",
    "EXAMPLES": "its examples",
    "QUERY": "the query",
    "BOS": "the start of the text",
    "GENERATED": "what it has written so far",
}
"""In the order in which a prompt has them."""
_SHORT = {
    "INSTRUCTIONS": "instructions",
    "EXAMPLES": "examples",
    "QUERY": "query",
    "BOS": "start of the text",
    "GENERATED": "the answer so far",
}
"""The same in a table."""


def hidden_from(condition: Mapping[str, Any] | None, name: str) -> str:
    """What a condition takes away from the model, as a sentence's object.

    Args:
        condition: as a result's provenance describes it; ``None`` where it does not.
    """
    hides = set((condition or {}).get("hide", ()))
    found = [words for segment, words in _SEGMENTS.items() if segment in hides]
    if not condition or not found or hides - set(_SEGMENTS):
        return f"what “{name}” hides"
    if condition.get("keep_self"):
        return "anything but the word that it stands at"
    if hides == {"EXAMPLES"} and condition.get("instruction"):
        return "its examples, while its instructions stay in sight"
    *first, last = found
    return f"{', '.join(first)} and {last}" if first else last


def described(result: SweepResult) -> dict[str, Mapping[str, Any]]:
    """What the provenance says of each condition, by name."""
    listed = result.provenance.get("conditions", ())
    if not isinstance(listed, Sequence):
        return {}
    return {str(one.get("name")): one for one in listed if isinstance(one, Mapping)}


def tell(location: Location, condition: Mapping[str, Any] | None) -> str:
    """A location as a sentence."""
    what, n = hidden_from(condition, location.condition), location.layers[-1]
    share = f"{100 * location.confidence:g} % interval"
    sure = ""
    if location.interval is not None:
        low, high = location.interval
        sure = f" ({share}: layer {low})" if low == high else f" ({share}: layers {low} to {high})"
    needs = "attend to" if Segment.QUERY.name in set((condition or {}).get("hide", ())) else "see"
    if location.verdict == "recognised":
        where = f"From layer {location.layer} of {n} on"
        if " " in location.place:
            where = f"From one of layers {location.place} of {n} on"
        return f"{where}, the model no longer needs to {needs} {what}{sure}."
    if location.verdict == "never recovered":
        return f"The model needs to {needs} {what} up to its last layer{sure}."
    if location.verdict == "no effect":
        return f"Whether or not the model can {needs} {what} changes nothing beyond noise."
    if location.verdict == "context harms":
        return f"The model does better where it cannot {needs} {what}."
    return f"This run does not tell where the model stops needing to {needs} {what}{sure}."


def tell_importance(found: LayerImportance) -> str:
    """The layers that count when each is masked alone, as a sentence."""
    if not found.critical:
        return f"“{found.condition}”: no single layer is needed beyond doubt."
    few = ", ".join(map(str, found.critical[:5]))
    more = f" and {len(found.critical) - 5} more" if len(found.critical) > 5 else ""
    return (
        f"“{found.condition}”: masked alone, layer {few}{more} costs beyond doubt, the most first."
    )


def tell_metric(result: SweepResult) -> str:
    """What a score means."""
    title = METRIC_TITLES.get(result.metric, result.metric.replace("_", " "))
    scale = metric_scale(result.metric)
    return f"Scores are {title}: {scale}." if scale else f"Scores are {title}, a metric of its own."


def tell_axis(result: SweepResult) -> str:
    """What a layer of the curves means."""
    n = result.n_layers
    return (
        "At layer l of a curve the context is hidden from layer l on: below, the model reads it; "
        "from there on, it cannot look back at it. At 0 it is hidden everywhere, which gives the "
        f"floor. At {n}, behind the last layer, nothing is hidden, which gives the ceiling. "
        "Ceiling minus floor is what the context is worth; the recognition layer is the first from "
        "which the score stays near the ceiling for good: by then the model knows what the task is."
    )


def condition_rows(result: SweepResult) -> list[tuple[str, ...]]:
    """A row for each condition: its name, what the prompt holds, and what is hidden."""
    known = described(result)
    rows: list[tuple[str, ...]] = []
    for name in result.conditions:
        condition = known.get(name)
        if condition is None:
            rows.append((name, "not recorded", "not recorded"))
            continue
        holds = "instructions, " if condition.get("instruction") else ""
        hides = [short for segment, short in _SHORT.items() if segment in condition.get("hide", ())]
        says = ", ".join(hides) or "nothing"
        if condition.get("keep_self"):
            says += "; each word still sees itself"
        rows.append((name, f"{holds}examples, query", says))
    return rows


COLUMNS = {
    "hidden": "what the model cannot attend to, from a layer on",
    "verdict": "whether there is a layer from which that does not matter any more",
    "layer": "the recognition layer, the first from which it does not matter for good",
    "interval": "layers that it may as well be, if the curve is a rise to a plateau",
    "any shape": "how late it may be at most if the curve may have any shape",
    "effect": "what the context is worth: ceiling minus floor, with its interval",
    "floor": "the score with the context hidden everywhere",
    "ceiling": "the score with nothing hidden",
    "largest jump at": "the layer at which the score rises most from the one before it",
}
"""What the columns of the table of locations mean."""
