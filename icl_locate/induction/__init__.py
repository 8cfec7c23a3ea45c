"""Induction heads: which heads match prefixes, and does in-context learning die with them?

Scores of every head, selections with random controls, ablation and knockout through generation, and
a study that compares them on a task (Crosbie and Shutova 2024; Bansal et al. 2023).
"""

from icl_locate.hooks import ablate_heads
from icl_locate.induction.arms import Arm, Comparison
from icl_locate.induction.copying import copying_scores
from icl_locate.induction.effects import HeadEffects, head_effects, repeated_prompts
from icl_locate.induction.random_tokens import task_tokens
from icl_locate.induction.reference import head_reference
from icl_locate.induction.result import AblationResult
from icl_locate.induction.scores import (
    HeadScores,
    head_scores,
    prefix_matching_scores,
    previous_token_scores,
)
from icl_locate.induction.selection import knockout, random_heads, select_heads
from icl_locate.induction.study import ablation_study
from icl_locate.interventions.ablation import HeadAblation, HeadReference
from icl_locate.interventions.heads import HeadSet

__all__ = [
    "AblationResult",
    "Arm",
    "Comparison",
    "HeadAblation",
    "HeadEffects",
    "HeadReference",
    "HeadScores",
    "HeadSet",
    "ablate_heads",
    "ablation_study",
    "copying_scores",
    "head_effects",
    "head_reference",
    "head_scores",
    "knockout",
    "prefix_matching_scores",
    "previous_token_scores",
    "random_heads",
    "repeated_prompts",
    "select_heads",
    "task_tokens",
]
