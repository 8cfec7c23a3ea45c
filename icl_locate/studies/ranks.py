"""Whether two measures put things into one order."""

from typing import Any

import pandas as pd


def spearman(a: Any, b: Any) -> float:
    """Spearman's rank correlation, in [-1, 1]; NaN where one of the two has no order at all.

    >>> spearman([1, 2, 3], [10, 100, 1000])
    1.0
    """
    ranks = pd.Series(a).rank(), pd.Series(b).rank()
    if any(some.nunique() < 2 for some in ranks):
        return float("nan")  # of which earlier versions of pandas warn
    return float(ranks[0].corr(ranks[1]))
