"""What an order policy sees and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class OrderView:
    logits: Tensor | None  # [N, V] float32, untempered, forbidden ids at -inf; None if not needed
    positions: Tensor  # [N] int64, relative to the start of the response
    rows: Tensor  # [N] int64, row ids
    seed: int
    states: Tensor | None = None  # [N, H or more]; None if no logits are needed


class OrderPolicy(Protocol):
    name: str
    needs_logits: bool

    def score(self, view: OrderView) -> Tensor:
        """[N] float: the lowest score is revealed first."""
