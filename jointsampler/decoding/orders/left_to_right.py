"""From left to right, as an autoregressive model would."""

from __future__ import annotations

from torch import Tensor

from ._policy import OrderView


class LeftToRight:
    name = "left_to_right"
    needs_logits = False

    def score(self, view: OrderView) -> Tensor:
        return view.positions.double()
