"""Divergences between the teacher's and the sampler's conditionals."""

from __future__ import annotations

import torch
from torch import Tensor


def forward_kl(teacher_log_probs: Tensor, sampler_logits: Tensor) -> Tensor:
    """KL(teacher || sampler) in nats over the last axis: [..., V], [..., V] -> [...].

    teacher_log_probs are normalised; sampler_logits need not be. Ids that both
    forbid (-inf on both sides) add nothing.
    """
    sampler_log_probs = torch.log_softmax(sampler_logits, dim=-1)
    mass = teacher_log_probs.exp()
    gap = torch.where(mass > 0, teacher_log_probs - sampler_log_probs, 0.0)
    return (mass * gap).sum(-1)
