"""How far mean scores scatter, how well that is known, and the intervals that follow."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy.stats import t as student

from icl_locate.checks.reprs import short_repr


@short_repr("value", "df")
@dataclass(frozen=True)
class Variance:
    """Variances of mean scores, and how well they are known.

    Attributes:
        value: one for each cell; NaN if there is one item.
        doubt: the sum of its parts' squares, each by the degrees of freedom that it has.
    """

    value: Float[ndarray, "*cell"]
    doubt: Float[ndarray, "*cell"]

    @classmethod
    def of(cls, value: ArrayLike, doubt: ArrayLike) -> "Variance":
        """From arrays, or from numbers where there is one cell and no axis of cells."""
        return cls(np.asarray(value), np.asarray(doubt))

    def __add__(self, other: "Variance") -> "Variance":
        """Of a sum or a difference of two that share nothing."""
        return Variance.of(self.value + other.value, self.doubt + other.doubt)

    @property
    def df(self) -> Float[ndarray, "*cell"]:
        """Degrees of freedom by Satterthwaite's approximation, 1 at least."""
        known = ratio(self.value**2, self.doubt, np.inf)
        return np.asarray(np.maximum(known, 1))

    def interval(
        self, mean: Float[ndarray, "*cell"], confidence: float
    ) -> Float[ndarray, "bound *cell"]:
        """Student's interval around means: row 0 low, row 1 high."""
        half = student.ppf((1 + confidence) / 2, self.df) * np.sqrt(self.value)
        return np.stack([mean - half, mean + half])


def ratio(a: ArrayLike, b: ArrayLike, otherwise: float) -> ndarray:
    """Their ratio, or something else where nothing scatters."""
    divisor = np.asarray(b)
    scatters = divisor > 0
    return np.asarray(np.where(scatters, a / np.where(scatters, divisor, 1), otherwise))
