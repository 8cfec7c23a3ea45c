"""Formation: what must go right while training for induction heads to form."""

from icl_locate.formation.clamps import (
    PAPER_CLAMPS,
    Clamp,
    CopyClamp,
    LayerClamp,
    PatternClamp,
    ValueAblation,
)
from icl_locate.formation.model import FormationModel, FormationShape
from icl_locate.formation.result import FormationRun, FormationStudy
from icl_locate.formation.runs import study, train
from icl_locate.formation.task import FormationTask

__all__ = [
    "PAPER_CLAMPS",
    "Clamp",
    "CopyClamp",
    "FormationModel",
    "FormationRun",
    "FormationShape",
    "FormationStudy",
    "FormationTask",
    "LayerClamp",
    "PatternClamp",
    "ValueAblation",
    "study",
    "train",
]
