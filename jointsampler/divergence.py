"""Entropies, and divergences between the teacher's and the sampler's conditionals."""

from __future__ import annotations

import torch
from torch import Tensor

_NEVER = 1e4  # nats below the largest: exp(-1e4) is 0, and 0 x 1e4 is 0, where 0 x inf is not


def forward_kl(teacher_log_probs: Tensor, sampler_logits: Tensor) -> Tensor:
    """KL(teacher || sampler) in nats over the last axis: [..., V], [..., V] -> [...].

    teacher_log_probs are normalised; sampler_logits need not be. Ids that both
    forbid (-inf on both sides) add nothing.
    """
    sampler_log_probs = torch.log_softmax(sampler_logits, dim=-1)
    mass = teacher_log_probs.exp()
    gap = torch.where(mass > 0, teacher_log_probs - sampler_log_probs, 0.0)
    return (mass * gap).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats over the last axis, [..., V] -> [...].

    A sum of non-negative terms around the largest logit: accurate *relative to
    itself* even near zero, where the usual formula cancels and the order among
    nearly certain positions would follow rounding noise of the batch.
    """
    top, index = logits.max(dim=-1, keepdim=True)
    gap = (top - logits).clamp_max_(_NEVER)  # [..., V], >= 0
    weight = torch.exp(-gap).scatter_(-1, index, 0.0)  # the largest apart
    rest = weight.sum(-1)
    energy = weight.mul_(gap).sum(-1)
    return torch.log1p(rest) + energy / (1 + rest)
