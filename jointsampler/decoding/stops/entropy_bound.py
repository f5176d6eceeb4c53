"""Go on while the revealed positions' entropies, without the largest, sum to at most ``bound`` nats.

EB-Sampler (Ben-Hamu et al. 2025, arXiv 2505.24857, section 4): the sum of the
marginal entropies less the largest bounds the total correlation of the round's
tokens, the KL that revealing them together adds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...divergence import entropy
from ...errors import UserError
from ._rule import Candidate


@dataclass(frozen=True)
class EntropyBound:
    limit: int
    bound: float = 0.1
    asks, estimates = True, False

    def __post_init__(self) -> None:
        if not self.bound >= 0:
            raise UserError(f"bound must be 0 nats or more, not {self.bound}.")

    def begin(self, first: Candidate) -> Tensor:
        nats = entropy(first.logits)
        return torch.stack([nats, nats], dim=-1)  # sum, largest

    def goes_on(self, memory: Tensor, candidate: Candidate) -> tuple[Tensor, Tensor]:
        nats = entropy(candidate.logits)
        total, largest = memory[:, 0] + nats, torch.maximum(memory[:, 1], nats)
        # The margin covers rounding: the largest is added to the total and subtracted again.
        return total - largest <= self.bound + 1e-6, torch.stack([total, largest], dim=-1)
