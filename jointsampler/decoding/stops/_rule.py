"""The input and the signature of a stop rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    """The position that the method would reveal next, in B rows."""

    logits: Tensor | None  # [B, V] float32, untempered
    # Reveals so far of this round (or step), in the rows that are still in it; [B] where they differ.
    revealed: int | Tensor
    estimate: Tensor | None = None  # [B] nats of KL that the update expects it to add


class StopRule(Protocol):
    """Decides, before every reveal of a round but the first, which rows stay in the round.

    ``limit`` bounds the reveals of a round, so that trip counts and buffer sizes
    need no synchronisation with the device. A refused reveal has cost the update
    before it.
    """

    limit: int
    asks: bool  # whether the loop calls goes_on; if not, every round has ``limit`` reveals
    estimates: bool  # whether goes_on reads Candidate.estimate

    def begin(self, first: Candidate) -> Any:
        """The rule's memory [B, ...] of a round; its first reveal, ``first``, always happens."""

    def goes_on(self, memory: Any, candidate: Candidate) -> tuple[Tensor, Any]:
        """(the rows that stay in the round, [B] bool; the memory if they do)."""
