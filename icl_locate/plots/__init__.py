"""Figures: each function returns a plotly Figure; none shows or writes anything."""

from icl_locate.plots.agreement import agreement
from icl_locate.plots.checkpoints import over_checkpoints
from icl_locate.plots.circuit import cut_bars, measure_curves, measure_map, query_key_plane
from icl_locate.plots.curves import caption, layer_curves
from icl_locate.plots.differences import layer_differences
from icl_locate.plots.experiments import failure_curves, importance_curves, shots_curves
from icl_locate.plots.formation import (
    formation_curves,
    formation_times,
    head_formation,
    product_of_vectors,
    strength_against_only_head,
)
from icl_locate.plots.frame import DASHES, PALETTE
from icl_locate.plots.gates import gate_map, pruning_curve
from icl_locate.plots.heads import ablation_bars, fraction_curves, head_set_curves
from icl_locate.plots.lora import lora_curves
from icl_locate.plots.maps import head_map
from icl_locate.plots.prompts import prompt_segments
from icl_locate.plots.runs import run_curves
from icl_locate.plots.savings import savings_curves
from icl_locate.plots.vectors import overrides, strength_curves, transfer_curves

__all__ = [
    "DASHES",
    "PALETTE",
    "ablation_bars",
    "agreement",
    "caption",
    "cut_bars",
    "failure_curves",
    "formation_curves",
    "formation_times",
    "fraction_curves",
    "gate_map",
    "head_formation",
    "head_map",
    "head_set_curves",
    "importance_curves",
    "layer_curves",
    "layer_differences",
    "lora_curves",
    "measure_curves",
    "measure_map",
    "over_checkpoints",
    "overrides",
    "product_of_vectors",
    "prompt_segments",
    "pruning_curve",
    "query_key_plane",
    "run_curves",
    "savings_curves",
    "shots_curves",
    "strength_against_only_head",
    "strength_curves",
    "transfer_curves",
]
