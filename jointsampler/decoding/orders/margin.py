"""Largest probability gap between the two likeliest tokens first (Kim et al. 2025, arXiv 2502.06768)."""

from __future__ import annotations

from torch import Tensor

from ._policy import OrderView


class Margin:
    name = "margin"
    needs_logits = True

    def score(self, view: OrderView) -> Tensor:
        top = view.logits.softmax(-1).topk(2, dim=-1).values
        return top[..., 1] - top[..., 0]
