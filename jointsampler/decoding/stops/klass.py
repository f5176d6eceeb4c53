"""Reveal every position that is sure and has stopped changing; the order's first one if there is none.

KLASS (Kim et al. 2025, arXiv 2511.05664, section 3): a masked position is
stable if over the last ``history`` teacher passes its law moved by less than
``kl`` nats each time (KL of the newer to the older), and sure if its likeliest
token has at least probability ``threshold``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...divergence import forward_kl
from ...errors import UserError
from ...teachers.protocol import Teacher
from ..scoring import over_masked
from ._rule import Candidate


@dataclass(frozen=True)
class Klass:
    limit: int
    threshold: float = 0.9
    kl: float = 0.01
    history: int = 2
    least = 1

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold must lie in (0, 1], not {self.threshold}.")
        if not self.kl > 0:
            raise UserError(f"kl must be positive, not {self.kl}.")
        if not (self.history >= 1 and int(self.history) == self.history):
            raise UserError(
                f"history must be a whole number of passes, at least 1, not {self.history}."
            )

    def begin(self, first: Candidate) -> Tensor:
        return first.eligible  # without an eligible first one, it is all there is

    def goes_on(self, memory: Tensor, candidate: Candidate) -> tuple[Tensor, Tensor]:
        return memory & candidate.eligible, memory

    def watcher(self) -> Watcher:
        return Watcher(self)


class Watcher:
    """What KLASS remembers between teacher passes: hidden states, not laws, so memory stays small."""

    def __init__(self, rule: Klass):
        self.rule = rule
        self.before: Tensor | None = None  # [B, L, H] of the previous pass
        self.calm: Tensor | None = None  # [B, L] int64, passes in a row without movement

    def eligible(self, teacher: Teacher, hidden: Tensor, masked: Tensor, most: int) -> Tensor:
        """[B, L] bool: positions to be revealed by the pass that gave ``hidden`` [B, L, H]."""
        before = hidden if self.before is None else self.before

        def judge(now: Tensor, then: Tensor) -> Tensor:
            law = torch.log_softmax(teacher.logits(now), dim=-1)
            moved = forward_kl(law, teacher.logits(then))
            return torch.stack([moved, law.amax(-1).exp()], dim=-1)

        moved, surest = over_masked(judge, (hidden, before), masked, most, teacher).unbind(-1)
        still = (moved < self.rule.kl) & masked
        if self.before is None:
            self.calm = torch.zeros_like(masked, dtype=torch.long)
        else:
            self.calm = torch.where(still, self.calm + 1, 0)
        self.before = hidden.clone()
        return masked & (self.calm >= self.rule.history) & (surest >= self.rule.threshold)
