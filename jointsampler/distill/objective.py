"""The objective: forward KL on full conditionals, at a bounded number of positions at a time.

``objective`` is the one place to change the loss. Other objectives were measured
and are worse (docs/ablations.md). Positions and weights are in ``positions.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..divergence import forward_kl
from ..teachers.protocol import Teacher

# Logits kept for the backward pass: 64 Mi floats, 256 MiB. Beyond it they are computed twice.
HELD_FLOATS = 1 << 26


def objective(teacher_log_probs: Tensor, sampler_logits: Tensor) -> Tensor:
    """KL(teacher || sampler), [N, V] and [N, V] -> [N] nats (arXiv 2509.22738, section 3.2)."""
    return forward_kl(teacher_log_probs, sampler_logits)


def losses(teacher: Teacher, truth: Tensor, states: Tensor) -> Tensor:
    """The objective at N positions, [N] float32 nats.

    truth: [N, H] the teacher's states; states: [N, H] the sampler's. Above
    ``HELD_FLOATS`` logits the positions are split, and each part's logits are
    computed again in the backward pass, so that a vocabulary of 150k fits.
    """

    def part(truth: Tensor, states: Tensor) -> Tensor:
        with torch.no_grad():
            log_p = torch.log_softmax(teacher.logits(truth), dim=-1)
        return objective(log_p, torch.log_softmax(teacher.logits(states), dim=-1))

    step = max(1, HELD_FLOATS // teacher.vocab_size)
    if len(states) <= step:
        return part(truth, states)
    pieces = zip(truth.split(step), states.split(step), strict=True)
    return torch.cat([checkpoint(part, *piece, use_reentrant=False) for piece in pieces])
