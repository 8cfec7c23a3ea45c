"""Agreement: several methods on one layer axis, and how far they differ."""

from icl_locate.agreement.curve import MethodCurve
from icl_locate.agreement.method import Asked, Measurement, Method
from icl_locate.agreement.registry import METHODS
from icl_locate.agreement.result import Agreement
from icl_locate.agreement.study import triangulate
from icl_locate.agreement.witness import MethodDifference, Witness

__all__ = [
    "METHODS",
    "Agreement",
    "Asked",
    "Measurement",
    "Method",
    "MethodCurve",
    "MethodDifference",
    "Witness",
    "triangulate",
]
