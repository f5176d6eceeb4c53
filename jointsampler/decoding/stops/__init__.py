"""Stop rules: when a round ends and the next full pass begins.

One file each, one signature. A rule decides row by row, on the device. Its
confidences and entropies come from *untempered* logits, like the order's. To add
a rule, write its file and register a method with it in ``methods.py``.
"""

from ._rule import Candidate, StopRule
from .adaptive import Adaptive
from .entropy_bound import EntropyBound
from .factor import Factor
from .fixed_k import FixedK
from .threshold import Threshold

__all__ = [
    "Adaptive",
    "Candidate",
    "EntropyBound",
    "Factor",
    "FixedK",
    "StopRule",
    "Threshold",
]
