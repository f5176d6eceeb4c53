"""A uniformly random order, drawn per (seed, row, position)."""

from __future__ import annotations

from torch import Tensor

from ... import rng
from ._policy import OrderView


class Random:
    name = "random"
    needs_logits = False

    def score(self, view: OrderView) -> Tensor:
        return rng.uniform(view.seed, view.rows, view.positions, rng.ORDER)
