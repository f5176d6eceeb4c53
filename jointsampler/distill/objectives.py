"""Objectives: what the sampler's conditional is held to at a position of a state.

All answer the same question with one signature: the teacher's log-probabilities
[N, V], the sampler's logits [N, V] and the recorded tokens [N] -> [N] nats.
Where they are taken, and with what weight, is ``step.py``'s business.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..divergence import forward_kl
from ..teachers.protocol import Teacher

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]

# Logits that are held for the backward pass: 64 Mi floats, 256 MiB. Past it they are made twice.
_HELD_FLOATS = 1 << 26


def forward(truth: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
    """KL(teacher || sampler) on full conditionals (arXiv 2509.22738): no sampling noise in the target."""
    return forward_kl(truth, logits)


def reverse(truth: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
    """KL(sampler || teacher): costly where the sampler puts mass that the teacher does not."""
    law = torch.log_softmax(logits, dim=-1)
    gap = torch.where(law > -torch.inf, law - truth, 0.0)
    return (law.exp() * gap).sum(-1)


def mixed(truth: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
    """Half of each."""
    return (forward(truth, logits, tokens) + reverse(truth, logits, tokens)) / 2


def hard(truth: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy on the recorded token: what a corpus without teacher allows, with its noise."""
    law = torch.log_softmax(logits, dim=-1)
    return -law.gather(-1, tokens[:, None])[:, 0]


OBJECTIVES: dict[str, Objective] = {
    "forward_kl": forward,
    "reverse_kl": reverse,
    "mixed_kl": mixed,
    "hard_labels": hard,
}


def scored(
    teacher: Teacher, objective: Objective, truth_states: Tensor, states: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """(objective, forward KL without gradient), [N] float32 each, of N positions.

    truth_states: [N, H], the teacher's; states: [N, H], the sampler's. Logits
    exist for a bounded number of positions at a time, and again in the backward
    pass, so that a vocabulary of 150k fits.
    """

    def part(truth_states: Tensor, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            truth = torch.log_softmax(teacher.logits(truth_states), dim=-1)
        logits = teacher.logits(states)
        value = objective(truth, logits, tokens)
        nats = value if objective is forward else forward_kl(truth, logits.detach())
        return value, nats.detach()

    step = max(1, _HELD_FLOATS // teacher.vocab_size)
    if len(states) <= step:
        return part(truth_states, states, tokens)
    pieces = zip(truth_states.split(step), states.split(step), tokens.split(step), strict=True)
    values, nats = zip(*(checkpoint(part, *p, use_reentrant=False) for p in pieces), strict=True)
    return torch.cat(values), torch.cat(nats)
