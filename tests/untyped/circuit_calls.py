"""The public callables of the inference circuit, with arguments that work."""

from collections.abc import Callable
from typing import Any

import planted_circuit
import torch
from saved_kinds import (
    disconnections,
    head_measure,
    layer_measure,
    perplexity_alignment,
    query_key_view,
)

from icl_locate import circuit, plots


def circuit_calls(call: Callable[..., Any], prompts: Any) -> dict[str, Any]:
    """A row for each.

    Args:
        call: makes a row of a function, its arguments, and how many of its examples run.
        prompts: of examples and a query.
    """
    measured, heads, cut = layer_measure(), head_measure(), disconnections()
    edges = {"which": "s->s", "compat": None}
    on_planted = {
        "model": planted_circuit.boot(), "task": planted_circuit.TASK, "n_queries": 2, "n_shots": 3,
    }  # fmt: skip
    aligned = {**on_planted, "k": 1}
    return {
        "circuit.neighbour_overlap": call(
            circuit.neighbour_overlap, {"a": torch.rand(4, 2), "b": torch.rand(4, 3), "k": 2}
        ),
        "circuit.SentenceEncoder": call(circuit.SentenceEncoder, {"name": "nowhere"}),
        "circuit.kernel_alignment": call(circuit.kernel_alignment, aligned, 0.1),
        "circuit.label_alignment": call(
            circuit.label_alignment, {**aligned, "letters": False}, 0.1
        ),
        "circuit.perplexity_alignment": call(circuit.perplexity_alignment, aligned, 0.1),
        "circuit.PerplexityAlignment.to_dataframe": call(perplexity_alignment().to_dataframe, {}),
        "circuit.PerplexityAlignment.interval": call(perplexity_alignment().interval, {}),
        "circuit.forerunner_similarity": call(
            circuit.forerunner_similarity,
            {"model": on_planted["model"], "task": on_planted["task"], "n_queries": 2, "ks": [1]},
            0.1,
        ),
        "circuit.centroid_probe": call(
            circuit.centroid_probe, {**on_planted, "n_calibration": 4}, 0.1
        ),
        "plots.measure_curves": call(plots.measure_curves, {"result": measured}, 0.3),
        "plots.measure_map": call(plots.measure_map, {"result": heads, "arm": "control"}, 0.3),
        "plots.cut_bars": call(plots.cut_bars, {"result": cut}, 0.1),
        "plots.query_key_plane": call(plots.query_key_plane, {"view": query_key_view()}, 0.3),
        "circuit.token_types": call(circuit.token_types, {"prompts": prompts}),
        "circuit.LayerMeasure.curve": call(measured.curve, {"arm": "control"}),
        "circuit.LayerMeasure.beyond": call(measured.beyond, {"control": "control"}),
        "circuit.LayerMeasure.to_dataframe": call(measured.to_dataframe, {}),
        "circuit.CircuitEdges": call(circuit.CircuitEdges, edges),
        "circuit.RandomEdges": call(circuit.RandomEdges, {**edges, "seed": 0, "layer": 1}),
        "circuit.disconnect": call(
            circuit.disconnect,
            {
                "model": planted_circuit.boot(),
                "task": planted_circuit.TASK,
                "edges": ["s->s"],
                "windows": [(0, 2)],
                "n_shots": 2,
                "n_queries": 2,
                "controls": 1,
            },
            0.1,
        ),
        "circuit.Disconnections.curve": call(cut.curve, {"edge": "s->s"}),
        "circuit.Disconnections.to_dataframe": call(cut.to_dataframe, {}),
        "circuit.HeadMeasure.beyond": call(heads.beyond, {"control": "control"}),
        "circuit.HeadMeasure.to_dataframe": call(heads.to_dataframe, {}),
        "circuit.HeadMeasure.per_layer": call(heads.per_layer, {"of": "max"}),
        "circuit.HeadMeasure.heads_beyond": call(heads.heads_beyond, {"control": "control"}),
        "circuit.forerunner_heads": call(circuit.forerunner_heads, on_planted, 0.2),
        "circuit.induction_heads": call(circuit.induction_heads, on_planted, 0.2),
        "circuit.label_assignment": call(circuit.label_assignment, on_planted, 0.2),
        "circuit.query_key_view": call(
            circuit.query_key_view, {**on_planted, "layer": 5, "head": 0, "item": 1}, 0.2
        ),
    }
