"""Objectives: what the sampler's conditional is held to at a position of a state.

All answer the same question with one signature: log-probabilities of O outcomes
under the teacher and under the sampler, [N, O] each, and the sampler's of the
recorded token, [N] -> [N] nats. Where they are taken, and with what weight, is
``step.py``'s business; what the outcomes are, ``targets.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..divergence import forward_kl
from ..teachers.protocol import Teacher
from .targets import Truth

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]

# Logits that are held for the backward pass: 64 Mi floats, 256 MiB. Past it they are made twice.
HELD_FLOATS = 1 << 26


def forward(truth: Tensor, law: Tensor, recorded: Tensor) -> Tensor:
    """KL(teacher || sampler) on full conditionals (arXiv 2509.22738): no sampling noise in the target."""
    return forward_kl(truth, law)


def reverse(truth: Tensor, law: Tensor, recorded: Tensor) -> Tensor:
    """KL(sampler || teacher): costly where the sampler puts mass that the teacher does not."""
    gap = torch.where(law > -torch.inf, law - truth, 0.0)
    return (law.exp() * gap).sum(-1)


def mixed(truth: Tensor, law: Tensor, recorded: Tensor) -> Tensor:
    """Half of each."""
    return (forward(truth, law, recorded) + reverse(truth, law, recorded)) / 2


def hard(truth: Tensor, law: Tensor, recorded: Tensor) -> Tensor:
    """Cross-entropy on the recorded token: what a corpus without teacher allows, with its noise."""
    return -recorded


OBJECTIVES: dict[str, Objective] = {
    "forward_kl": forward,
    "reverse_kl": reverse,
    "mixed_kl": mixed,
    "hard_labels": hard,
}


def scored(
    teacher: Teacher, objective: Objective, truth: Truth, states: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """(objective, forward KL without gradient), [N] float32 each, of N positions.

    truth: the teacher's conditionals; states: [N, H], the sampler's; tokens: [N],
    the recorded ones. Logits exist for a bounded number of positions at a time,
    and again in the backward pass, so that a vocabulary of 150k fits.
    """

    def part(truth: Truth, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        whole = torch.log_softmax(teacher.logits(states), dim=-1)
        log_p, log_q = truth.outcomes(teacher, whole)
        value = objective(log_p, log_q, whole.gather(-1, tokens[:, None])[:, 0])
        nats = value if objective is forward else forward_kl(log_p, log_q.detach())
        return value, nats.detach()

    step = max(1, HELD_FLOATS // teacher.vocab_size)
    if len(states) <= step:
        return part(truth, states, tokens)
    pieces = zip(truth.split(step), states.split(step), tokens.split(step), strict=True)
    values, nats = zip(*(checkpoint(part, *p, use_reentrant=False) for p in pieces), strict=True)
    return torch.cat(values), torch.cat(nats)
