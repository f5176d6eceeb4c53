"""k reveals per block, one k for all rows or one each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UserError
from ._rule import Candidate


@dataclass(frozen=True)
class FixedK:
    limit: int
    rows: tuple[int, ...] | None = None  # each row's own k, at most ``limit``; None: all the same

    def __post_init__(self) -> None:
        least = min((self.limit, *(self.rows or ())))
        if least < 1:
            raise UserError(f"k must be at least 1, not {least}.")

    @property
    def least(self) -> int:
        return self.limit if self.rows is None else min(self.rows)

    def begin(self, first: Candidate) -> Tensor | None:
        if self.rows is None:
            return None
        return torch.tensor(self.rows, device=first.logits.device)

    def goes_on(self, memory: Tensor | None, candidate: Candidate) -> tuple[Tensor, Tensor | None]:
        if memory is None:
            return torch.ones_like(candidate.logits[:, 0], dtype=torch.bool), None
        return candidate.revealed < memory, memory
