"""Go on while (n + 1) (1 - c_n) < ``factor``, with c_n the n-th revealed position's confidence.

Factor-based parallel decoding of Fast-dLLM (Wu et al. 2025, arXiv 2505.22618,
section 3.3): the more tokens a round reveals, the more confident each must be.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import UserError
from ._rule import Candidate
from .threshold import confidence


@dataclass(frozen=True)
class Factor:
    limit: int
    factor: float = 1.0
    asks, estimates = True, False

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise UserError(f"factor must be positive, not {self.factor}.")

    def begin(self, first: Candidate) -> None:
        return None

    def goes_on(self, memory: None, candidate: Candidate) -> tuple[Tensor, None]:
        n = candidate.revealed + 1  # with the candidate
        return (n + 1) * (1 - confidence(candidate)) < self.factor, None
