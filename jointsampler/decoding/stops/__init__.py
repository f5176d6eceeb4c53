"""Stop rules: when a block ends and the teacher is asked again.

One file each, one signature. A rule decides row by row, on the device, from the
logits at the position that would be revealed next. Its confidences and
entropies are of *untempered* laws, like the order's.
"""

from ._rule import Candidate, StopRule
from .adaptive import Adaptive
from .entropy_bound import EntropyBound
from .factor import Factor
from .fixed_k import FixedK
from .klass import Klass
from .threshold import Threshold

__all__ = [
    "Adaptive",
    "Candidate",
    "EntropyBound",
    "Factor",
    "FixedK",
    "Klass",
    "StopRule",
    "Threshold",
]
