"""What a stop rule sees and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    logits: Tensor  # [B, V] float32, untempered, at the position that would be revealed next
    revealed: int  # reveals of this block so far, in the rows that are still in it


class StopRule(Protocol):
    """``limit`` and ``least`` bound the reveals of a block in a row with that many left.

    Both are known to the host, so trip counts and buffer sizes need no answer
    from the device.
    """

    limit: int
    least: int

    def begin(self, first: Candidate) -> Tensor | None:
        """The rule's memory [B, ...] of a block whose first reveal, which always happens, is ``first``."""

    def goes_on(self, memory: Tensor | None, candidate: Candidate) -> tuple[Tensor, Tensor | None]:
        """(which rows stay in the block [B] bool, the memory if they do), before every further reveal."""
