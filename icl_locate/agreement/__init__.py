"""Agreement: several methods on one layer axis, and how far they differ.

Layer ``L`` of the axis is the residual stream that enters layer ``L``: 0 is the embedding,
``n_layers`` what leaves the last layer. Every method says by which ``L`` the task is there:

- "masking": hidden from layer ``L`` on, the examples are no longer missed (a plateau, as
  `icl_locate.locate` finds it: at 0.9 of the way).
- "single_layer": hidden at one layer alone, they are last missed at layer ``L - 1``: by more than a
  tenth of the largest damage (a drop).
- "disconnections": cut from layer ``L`` on, the sight of the labels from the query's last token is
  no longer missed (a plateau, as above; tasks of classes or log-probabilities).
- "task_vector": the last token's state after block ``L - 1``, which is what layer ``L`` reads, does
  the task best (a peak; see `icl_locate.vectors.locate_peak`).
- "many_positions": states of all examples' answers after block ``L - 2``, which layer ``L - 1``
  reads, are the last that carry the task into other prompts: half as well as the best (a drop).
- "function_vector": what the best heads write, added after block ``L - 1``, is the last that does
  the task, half as well as the best (a drop). Such curves are level until the vector is read: a
  peak would be whichever of the level layers was lucky.
- "kernel_alignment", "probe": the stream that enters layer ``L`` is the first in which queries of a
  class lie near each other, or near their class's mean, 0.9 as much as in the best (a rise; of
  tasks of classes, in units of their own). They say where the class can be read, not where it is.
- "lora": layer ``L - 1`` is the last that, tuned alone, does 0.9 of what the best layer does (a
  drop). It trains, so it runs only where it is named, with its own options.

A peak of states after block ``l`` is put at ``l + 1``, the stream in which they stand, and not at
``l``: where layer ``l`` alone reads the examples, a mask misses them last at layer ``l`` and says
``l + 1``, and so do all others.
"""

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
