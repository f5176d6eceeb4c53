"""Lowest entropy first: the default."""

from __future__ import annotations

from torch import Tensor

from ...divergence import entropy
from ._policy import OrderView


class Entropy:
    name = "entropy"
    needs_logits = True

    def score(self, view: OrderView) -> Tensor:
        return entropy(view.logits)
