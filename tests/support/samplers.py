"""Samplers with weights that do something, without a training."""

from __future__ import annotations

import torch

from jointsampler import JointSampler, Teacher


def busy_sampler(
    teacher: Teacher, depth: int, width: int | None = None, seed: int = 3, std: float = 0.02
) -> JointSampler:
    """In evaluation mode. A fresh sampler returns its guess; this one corrects it by about ``std``."""
    sampler = JointSampler.for_teacher(teacher, width, depth=depth, seed=seed)
    with torch.no_grad():
        sampler.project.weight.normal_(std=std, generator=torch.Generator().manual_seed(seed))
    return sampler.eval()
