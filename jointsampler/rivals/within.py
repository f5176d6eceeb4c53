"""An order that puts the positions an update has ruled out behind all others.

Some rivals restrict where the next token may be revealed: a window that slides, or
positions independent of those just revealed. Their updates write one number more
behind the hidden state of every position (the LM head ignores it), and this order
reads it. The base order decides among the positions that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..decoding.orders import OrderPolicy, OrderView

_BEHIND = 1e6  # above every score of an order


@dataclass(frozen=True)
class Within:
    """``base`` among the positions whose last number is at most ``bound``, then among the others."""

    base: OrderPolicy
    bound: float

    needs_logits = True

    @property
    def name(self) -> str:
        return f"{self.base.name} within {self.bound:g}"

    def score(self, view: OrderView) -> Tensor:
        scores = self.base.score(view)
        return scores + torch.where(view.states[:, -1] > self.bound, _BEHIND, 0.0)


def with_number(states: Tensor, number: Tensor) -> Tensor:
    """states [B, S, H] and number [B, S] -> [B, S, H + 1] float32, so that the number keeps its digits."""
    return torch.cat([states.float(), number[..., None].float()], dim=-1)
