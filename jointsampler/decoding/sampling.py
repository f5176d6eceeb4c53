"""From logits to a token: temperature, top-p, and an inverse-CDF draw.

The caller provides the uniform number (``rng.py``), so the same number and the
same probabilities always give the same token. Which position is drawn is left to
the order policy, which reads the logits before temperature and top-p.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError


@dataclass(frozen=True)
class Sampling:
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature must be 0 (greedy) or positive, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], not {self.top_p}.")


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """[..., V] float32 untempered logits -> [..., V] float32 probabilities to draw from."""
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    probs = torch.softmax(logits, dim=-1)
    if sampling.top_p == 1:
        return probs
    # The smallest set of likeliest tokens whose mass reaches top_p (Holtzman et al. 2020).
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < sampling.top_p, ordered, 0.0)
    probs = torch.zeros_like(probs).scatter(-1, index, kept)
    return probs / probs.sum(-1, keepdim=True)


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [...] int64 from probs [..., V] by inverting their CDF at ``uniform`` [...] float64."""
    cumulative = probs.double().cumsum(-1)
    target = uniform[..., None] * cumulative[..., -1:]
    token = torch.searchsorted(cumulative, target, right=True)[..., 0]
    return token.clamp_max(probs.shape[-1] - 1)
