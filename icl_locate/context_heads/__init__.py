"""Which heads read the context: masks over single heads and sets of heads."""

from icl_locate.context_heads.result import HeadSetCurve, HeadSweepResult
from icl_locate.context_heads.study import HeadStudy

__all__ = ["HeadSetCurve", "HeadStudy", "HeadSweepResult"]
