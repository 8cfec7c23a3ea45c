"""The inference circuit: text into forerunner tokens, those into labels, labels into the answer.

Every measure of Cho et al., "Revisiting In-context Learning Inference Circuit in Large Language
Models" (ICLR 2025), for labels of any number of tokens and any template.
"""

from icl_locate.circuit.assignment import label_assignment
from icl_locate.circuit.cut_result import Disconnections
from icl_locate.circuit.cuts import disconnect
from icl_locate.circuit.edges import CircuitEdges
from icl_locate.circuit.forerunner import forerunner_heads
from icl_locate.circuit.query_key import QueryKeyView, query_key_view
from icl_locate.circuit.random_edges import RandomEdges
from icl_locate.circuit.result import ArmCurve, HeadMeasure, LayerMeasure
from icl_locate.circuit.retrieval import induction_heads
from icl_locate.circuit.tokens import TokenTypes, token_types

__all__ = [
    "ArmCurve",
    "CircuitEdges",
    "Disconnections",
    "HeadMeasure",
    "LayerMeasure",
    "QueryKeyView",
    "RandomEdges",
    "TokenTypes",
    "disconnect",
    "forerunner_heads",
    "induction_heads",
    "label_assignment",
    "query_key_view",
    "token_types",
]
