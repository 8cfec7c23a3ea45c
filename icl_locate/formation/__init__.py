"""Formation: what must go right while training for induction heads to form."""

from icl_locate.formation.ablations import (
    Ablated,
    ablate,
    induction_strengths,
    only_head_accuracy,
    previous_token_strengths,
)
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
from icl_locate.formation.toy import product_of_vectors

__all__ = [
    "PAPER_CLAMPS",
    "Ablated",
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
    "ablate",
    "induction_strengths",
    "only_head_accuracy",
    "previous_token_strengths",
    "product_of_vectors",
    "study",
    "train",
]
