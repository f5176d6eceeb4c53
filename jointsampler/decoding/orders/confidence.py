"""Highest probability of the likeliest token first (LLaDA, arXiv 2502.09992)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._policy import OrderView


class Confidence:
    name = "confidence"
    needs_logits = True

    def score(self, view: OrderView) -> Tensor:
        # log(1 / p_max) = log1p(sum of the others relative to the largest): exact near p_max = 1.
        top, index = view.logits.max(dim=-1, keepdim=True)
        others = torch.exp(view.logits - top).scatter(-1, index, 0.0)
        return torch.log1p(others.sum(-1))
