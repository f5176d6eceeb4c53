"""Stop rules: when a block ends and the teacher is asked again.

A rule gives the most and the fewest reveals a block may have (known to the
host, so trip counts and buffer sizes need no answer from the device) and decides, row by row and on the device, whether a row
goes on. The first reveal of a block always happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class StopRule(Protocol):
    limit: int  # the most reveals of a block
    least: int  # the fewest, in a row with that many masked positions left

    def goes_on(self, active: Tensor) -> Tensor:
        """[B] bool, asked before every reveal but the first: which active rows stay in the block."""


@dataclass(frozen=True)
class FixedK:
    """k reveals per block."""

    limit: int

    @property
    def least(self) -> int:
        return self.limit

    def goes_on(self, active: Tensor) -> Tensor:
        return torch.ones_like(active)
