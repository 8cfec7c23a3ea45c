"""The inference circuit: text into forerunner tokens, those into labels, labels into the answer.

Every measure of Cho et al., "Revisiting In-context Learning Inference Circuit in Large Language
Models" (ICLR 2025), for labels of any number of tokens and any template.
"""

from icl_locate.circuit.alignment import kernel_alignment
from icl_locate.circuit.assignment import label_assignment
from icl_locate.circuit.cut_result import Disconnections
from icl_locate.circuit.cuts import disconnect
from icl_locate.circuit.edges import CircuitEdges
from icl_locate.circuit.encoder import SentenceEncoder
from icl_locate.circuit.forerunner import forerunner_heads
from icl_locate.circuit.labels import label_alignment
from icl_locate.circuit.neighbours import neighbour_overlap
from icl_locate.circuit.perplexity import PerplexityAlignment, perplexity_alignment
from icl_locate.circuit.probe import centroid_probe
from icl_locate.circuit.query_key import QueryKeyView, query_key_view
from icl_locate.circuit.random_edges import RandomEdges
from icl_locate.circuit.result import ArmCurve, HeadMeasure, LayerMeasure
from icl_locate.circuit.retrieval import induction_heads
from icl_locate.circuit.similarity import ForerunnerSimilarity, forerunner_similarity
from icl_locate.circuit.tokens import TokenTypes, token_types

__all__ = [
    "ArmCurve",
    "CircuitEdges",
    "Disconnections",
    "ForerunnerSimilarity",
    "HeadMeasure",
    "LayerMeasure",
    "PerplexityAlignment",
    "QueryKeyView",
    "RandomEdges",
    "SentenceEncoder",
    "TokenTypes",
    "centroid_probe",
    "disconnect",
    "forerunner_heads",
    "forerunner_similarity",
    "induction_heads",
    "kernel_alignment",
    "label_alignment",
    "label_assignment",
    "neighbour_overlap",
    "perplexity_alignment",
    "query_key_view",
    "token_types",
]
