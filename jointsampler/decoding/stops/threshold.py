"""Go on while the next position's likeliest token has at least probability ``threshold``.

Confidence-aware parallel decoding of Fast-dLLM (Wu et al. 2025, arXiv
2505.22618, section 3.3): with the confidence order, a round reveals every
position at or above the threshold, and the most confident one in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import UserError
from ._rule import Candidate


def confidence(candidate: Candidate) -> Tensor:
    """[B] probability of the likeliest token."""
    return candidate.logits.softmax(-1).amax(-1)


@dataclass(frozen=True)
class Threshold:
    limit: int
    threshold: float = 0.9
    asks, estimates = True, False

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold must lie in (0, 1], not {self.threshold}.")

    def begin(self, first: Candidate) -> None:
        return None

    def goes_on(self, memory: None, candidate: Candidate) -> tuple[Tensor, None]:
        return confidence(candidate) >= self.threshold, None
