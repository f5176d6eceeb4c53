"""Lowest entropy first: the default."""

from __future__ import annotations

import torch
from torch import Tensor

from ._policy import OrderView


class Entropy:
    name = "entropy"
    needs_logits = True

    def score(self, view: OrderView) -> Tensor:
        return entropy(view.logits)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats over the last axis, [..., V] -> [...].

    A sum of non-negative terms around the largest logit: accurate *relative to
    itself* even near zero, where the usual formula cancels and the order among
    nearly certain positions would follow rounding noise of the batch.
    """
    top, index = logits.max(dim=-1, keepdim=True)
    gap = top - logits  # [..., V], >= 0, inf at forbidden ids
    weight = torch.exp(-gap).scatter(-1, index, 0.0)  # the largest apart
    rest = weight.sum(-1)
    energy = torch.where(weight > 0, weight * gap, 0.0).sum(-1)
    return torch.log1p(rest) + energy / (1 + rest)
