"""No update: every token of a round comes from the full pass, as if tokens were independent.

This is the marginal model, the baseline of every comparison.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from ..sampler.estimator import Foresight
from ..teachers.protocol import Teacher
from .protocol import Opening, Reveal


class NoUpdate:
    name = "none"
    passes = ranks = estimates = False
    keeps = "nothing"
    k_max = None

    def reading(self, teacher: Teacher) -> Teacher:
        return teacher

    def begin(
        self, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ) -> MarginalRound:
        return MarginalRound(opening.states)


class MarginalRound:
    def __init__(self, opening: Tensor):
        self.opening = self.states = opening

    def advance(self, reveal: Reveal) -> Tensor:
        """No state moves: positions [B, 0]."""
        return torch.empty(len(reveal.ids), 0, dtype=torch.long, device=reveal.ids.device)

    def estimate(self, seen: Foresight) -> Tensor:
        raise UserError("Marginals carry no estimate of their error: give an update.")
