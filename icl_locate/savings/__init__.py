"""What dropping the context from a layer on saves: estimated from sizes, and measured.

Sia et al. (NeurIPS 2024, section 5) estimate 45 % of the computation. Here that formula stands
beside exact operations, cache sizes, and what a run takes that really drops the context.
"""

from icl_locate.models.costs import ModelCosts
from icl_locate.savings.estimate import Savings, estimate_savings, paper_share
from icl_locate.savings.measure import measure_savings
from icl_locate.savings.result import MeasuredSavings

__all__ = [
    "MeasuredSavings",
    "ModelCosts",
    "Savings",
    "estimate_savings",
    "measure_savings",
    "paper_share",
]
