"""What a stop rule sees and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    logits: Tensor  # [B, V] float32, untempered, at the position that would be revealed next
    revealed: int  # reveals of this block so far, in the rows that are still in it
    estimate: Tensor | None = None  # [B] nats of KL that the sampler expects it to add
    eligible: Tensor | None = None  # [B] bool, what the rule's watcher said of the position


class StopRule(Protocol):
    """``limit`` and ``least`` bound the reveals of a block in a row with that many left.

    Both are known to the host, so trip counts and buffer sizes need no answer
    from the device. A rule may set ``needs_estimate`` (it reads
    ``Candidate.estimate``, and so needs a sampler), or have a ``watcher()`` for
    what it remembers between teacher passes: eligible positions come first in
    every order.
    """

    limit: int
    least: int

    def begin(self, first: Candidate) -> Tensor | None:
        """The rule's memory [B, ...] of a block whose first reveal, which always happens, is ``first``."""

    def goes_on(self, memory: Tensor | None, candidate: Candidate) -> tuple[Tensor, Tensor | None]:
        """(which rows stay in the block [B] bool, the memory if they do), before every further reveal."""
