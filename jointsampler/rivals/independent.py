"""Rounds of positions that depend little on each other: dependency-aware selection.

The selection of DEMASK (arXiv 2604.02560) on the head of ``dependency.py``: walk
through the masked positions in the order's order and take those whose influences
from all taken before, added over the round, stay within a bound on the total
variation between the product of marginals and the joint. All tokens come from the
full pass. No state changes; each position's last number is the round's sum if it
were taken next, which the order (``within.py``) and the rule read.

What differs from the paper, besides the head: its order is confidence, here it is
the order of all rows of a comparison. After a reveal the ``look`` positions that
the order ranks first are tested again, and one more; where all of them exceed the
bound, the round ends though a later one might not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..sampler.estimator import Foresight
from ..teachers.protocol import Teacher
from ..updates import Opening, Reveal
from .dependency import DependencyHead
from .within import with_number


class Independent:
    """For the order ``Within(order, bound)`` and a rule that ends the round above the same bound."""

    name = "independent"
    passes = False
    ranks = estimates = True
    keeps = "nothing"
    k_max = None

    def __init__(self, head: DependencyHead, look: int = 8):
        self.head, self.look = head, look

    def reading(self, teacher: Teacher) -> Teacher:
        return teacher

    def begin(
        self, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ) -> IndependentRound:
        return IndependentRound(self, teacher, opening)


class IndependentRound:
    def __init__(self, update: Independent, teacher: Teacher, opening: Opening):
        self.opening = opening.states
        self._update, self._hidden = update, opening.states[..., : teacher.hidden_size].float()
        sums = torch.zeros_like(self.opening[..., 0])  # [B, S]
        self.states = with_number(self.opening, sums)
        self._taken = torch.zeros_like(self.states[:, 0, -1:])  # [B, 1], the round's sum so far
        self._places = torch.arange(sums.shape[1], device=sums.device)

    def advance(self, reveal: Reveal) -> Tensor:
        position = reveal.position
        each = torch.arange(len(position), device=position.device)
        offset = self._places - position[:, None]
        influence = self._update.head(self._hidden, self._hidden[each, position], offset)
        taken = self.states[each, position, -1:]  # [B, 1], the round's sum with this reveal
        self.states[..., -1] += taken - self._taken + influence
        self._taken = taken
        scores = reveal.scores.masked_fill(~reveal.masked, torch.inf)
        return scores.argsort(1)[:, : self._update.look]

    def estimate(self, seen: Foresight) -> Tensor:
        """[B] the sum of influences in the round with the candidate."""
        return seen.states[..., -1]
