"""The public callables of the inference circuit, with arguments that work."""

from collections.abc import Callable
from typing import Any

from saved_kinds import layer_measure

from icl_locate import circuit


def circuit_calls(call: Callable[..., Any], prompts: Any) -> dict[str, Any]:
    """A row for each.

    Args:
        call: makes a row of a function, its arguments, and how many of its examples run.
        prompts: of examples and a query.
    """
    measured = layer_measure()
    return {
        "circuit.token_types": call(circuit.token_types, {"prompts": prompts}),
        "circuit.LayerMeasure.curve": call(measured.curve, {"arm": "control"}),
        "circuit.LayerMeasure.beyond": call(measured.beyond, {"control": "control"}),
        "circuit.LayerMeasure.to_dataframe": call(measured.to_dataframe, {}),
    }
