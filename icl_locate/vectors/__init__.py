"""Vectors: what the context leaves in the residual stream, taken out and put in elsewhere."""

from icl_locate.vectors.effects import HeadIndirectEffects, head_indirect_effects
from icl_locate.vectors.function_vector import FunctionVector, function_vector
from icl_locate.vectors.in_context import InContextVectors, in_context_vectors
from icl_locate.vectors.override import override_study
from icl_locate.vectors.override_result import Override
from icl_locate.vectors.patch_result import Patched
from icl_locate.vectors.patching import patch_states
from icl_locate.vectors.peak import Peak, locate_peak
from icl_locate.vectors.scores import LayerCurve, LayerScores, StrengthScores
from icl_locate.vectors.study import task_vectors
from icl_locate.vectors.task_result import TaskVectors

__all__ = [
    "FunctionVector",
    "HeadIndirectEffects",
    "InContextVectors",
    "LayerCurve",
    "LayerScores",
    "Override",
    "Patched",
    "Peak",
    "StrengthScores",
    "TaskVectors",
    "function_vector",
    "head_indirect_effects",
    "in_context_vectors",
    "locate_peak",
    "override_study",
    "patch_states",
    "task_vectors",
]
