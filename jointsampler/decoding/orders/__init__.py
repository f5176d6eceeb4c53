"""Order policies: which masked position is revealed next.

One file each, one signature. A policy gives every position a score; the lowest
is revealed first. Scores are taken from *untempered* logits, so temperature
never changes the order. Ties go to the leftmost position.
"""

from __future__ import annotations

from ...errors import unknown_name
from ._policy import OrderPolicy, OrderView
from .confidence import Confidence
from .entropy import Entropy
from .left_to_right import LeftToRight
from .margin import Margin
from .random import Random

ORDERS: dict[str, OrderPolicy] = {
    policy.name: policy for policy in (Entropy(), Confidence(), Margin(), Random(), LeftToRight())
}


def get_order(name: str) -> OrderPolicy:
    """The policy called ``name``; UserError with the nearest name otherwise."""
    if name not in ORDERS:
        raise unknown_name("order", name, ORDERS)
    return ORDERS[name]


__all__ = ["ORDERS", "OrderPolicy", "OrderView", "get_order"]
