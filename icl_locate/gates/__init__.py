"""L0 gates: a gate for each head, learnt on a frozen model, that closes what it can.

Sia et al. (arXiv 2403.04510v1, section 6.5) after Louizos et al. (2018): hard concrete gates.
"""

from icl_locate.gates.config import GateConfig
from icl_locate.gates.result import GatesResult
from icl_locate.gates.study import train_gates

__all__ = ["GateConfig", "GatesResult", "train_gates"]
