"""k reveals per round, the same in every row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UserError
from ._rule import Candidate


@dataclass(frozen=True)
class FixedK:
    limit: int
    asks = estimates = False

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UserError(f"k must be at least 1, not {self.limit}.")

    def begin(self, first: Candidate) -> None:
        return None

    def goes_on(self, memory: None, candidate: Candidate) -> tuple[Tensor, None]:
        return torch.ones_like(candidate.logits[:, 0], dtype=torch.bool), None
