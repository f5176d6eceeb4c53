"""Go on while the update expects the next token to add at most ``budget`` nats of KL.

The budget is in nats per token. The update's own estimate of KL(teacher ||
method) at the position that would be revealed next is compared with it, so easy
stretches are revealed in long rounds and hard ones in short. The first token of
a round comes from the full pass and adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import UserError
from ._rule import Candidate


@dataclass(frozen=True)
class Adaptive:
    limit: int
    budget: float = 0.1
    asks = estimates = True

    def __post_init__(self) -> None:
        if not self.budget >= 0:
            raise UserError(f"budget must be 0 nats per token or more, not {self.budget}.")

    def begin(self, first: Candidate) -> None:
        return None

    def goes_on(self, memory: None, candidate: Candidate) -> tuple[Tensor, None]:
        return candidate.estimate <= self.budget, None
